//! nginx: one worker, keep-alive towards the upstream, nothing buffered, keys in a `map`, no access log.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use load_tests::tls::CertifiedFiles;

use super::{Name, Setting, Subject, UPSTREAM_SECRET, directory, free_address, installed, version};
use crate::process::Running;

/// Starts nginx.
pub(super) fn start(setting: &Setting<'_>) -> anyhow::Result<Subject> {
    let program = installed("nginx", "nginx-light")?;
    let (dir, address) = (directory()?, free_address()?);
    let mut map = String::new();
    let known = &setting.keys.known;
    for key in known {
        let _ = writeln!(map, "\"Bearer {key}\" 1;");
    }
    std::fs::write(dir.path().join("keys.map"), map)?;
    let config = dir.path().join("nginx.conf");
    let tls = setting.tls.map(|certified| certified.write(dir.path())).transpose()?;
    std::fs::write(&config, configuration(dir.path(), address, tls.as_ref(), setting))?;
    let about = format!("{}, map of {} keys, key swapped", version(&program, "-v")?, known.len());
    let mut command = Command::new(program);
    command.arg("-p").arg(dir.path()).arg("-c").arg(&config).arg("-e").arg(dir.path().join("error.log"));
    Ok(Subject::process(Name::Nginx, about, address, Running::start_on(command, setting.cores())?, vec![dir]))
}

fn configuration(
    dir: &Path,
    address: SocketAddr,
    tls: Option<&CertifiedFiles>,
    setting: &Setting<'_>,
) -> String {
    let Setting { upstream, workers, .. } = setting;
    // Those to the upstream count too, and when less than a sixteenth is left it closes those that wait.
    let connections = 2 * setting.connections + setting.connections / 4;
    // nginx wants room in a bucket for all keys that meet in it.
    let (hash, bucket) = match setting.keys.known.len() {
        ..=1000 => (8192, 256),
        keys => (4 * keys, 512),
    };
    let buffering = if setting.large_bodies { "off" } else { "on" };
    // With more workers than one each needs its own listener, or one of them takes what it can.
    let share = if *workers > 1 { " reuseport" } else { "" };
    let (ssl, certificate) = tls.map_or(("", String::new()), |files| (" ssl", lines(files)));
    let dir = dir.display();
    format!(
        "daemon off;
worker_processes {workers};
pid {dir}/nginx.pid;
events {{ worker_connections {connections}; multi_accept on; }}
http {{
  access_log off;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  client_body_buffer_size 64k;
  client_max_body_size 0;
  keepalive_requests 1000000000;
  map_hash_max_size {hash};
  map_hash_bucket_size {bucket};
  map $http_authorization $known {{ default 0; include {dir}/keys.map; }}
  upstream models {{
    server {upstream};
    keepalive 1024;
    keepalive_requests 1000000000;
  }}
  server {{
    listen {address} backlog=4096{share}{ssl};
{certificate}    location / {{
      if ($known = 0) {{ return 401; }}
      proxy_pass http://models;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_set_header Authorization \"Bearer {UPSTREAM_SECRET}\";
      proxy_buffering off;
      proxy_request_buffering {buffering};
    }}
  }}
}}
"
    )
}

/// Sessions are resumed by tickets alone, as Liutong has it.
fn lines(files: &CertifiedFiles) -> String {
    format!(
        "    ssl_certificate {};
    ssl_certificate_key {};
    ssl_protocols TLSv1.3;
    ssl_session_tickets on;
    ssl_session_cache off;
",
        files.certificate.display(),
        files.key.display()
    )
}
