//! nginx: one worker, keep-alive towards the upstream, nothing buffered, keys in a `map`, no access log.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::{Name, Subject, UPSTREAM_SECRET, directory, free_address, installed, version};
use crate::keys::Keys;
use crate::process::Running;

/// Starts nginx.
pub(super) fn start(upstream: SocketAddr, keys: &Keys) -> anyhow::Result<Subject> {
    let program = installed("nginx", "nginx-light")?;
    let (dir, address) = (directory()?, free_address()?);
    let mut map = String::new();
    for key in &keys.known {
        let _ = writeln!(map, "\"Bearer {key}\" 1;");
    }
    std::fs::write(dir.path().join("keys.map"), map)?;
    let config = dir.path().join("nginx.conf");
    std::fs::write(&config, configuration(dir.path(), address, upstream))?;
    let about = format!("{}, map of {} keys, key swapped", version(&program, "-v")?, keys.known.len());
    let mut command = Command::new(program);
    command.arg("-p").arg(dir.path()).arg("-c").arg(&config).arg("-e").arg(dir.path().join("error.log"));
    Ok(Subject::process(Name::Nginx, about, address, Running::start(command)?, vec![dir]))
}

fn configuration(dir: &Path, address: SocketAddr, upstream: SocketAddr) -> String {
    let dir = dir.display();
    format!(
        "daemon off;
worker_processes 1;
pid {dir}/nginx.pid;
events {{ worker_connections 8192; multi_accept on; }}
http {{
  access_log off;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  client_body_buffer_size 64k;
  keepalive_requests 1000000000;
  map_hash_max_size 8192;
  map_hash_bucket_size 256;
  map $http_authorization $known {{ default 0; include {dir}/keys.map; }}
  upstream models {{
    server {upstream};
    keepalive 1024;
    keepalive_requests 1000000000;
  }}
  server {{
    listen {address} backlog=4096;
    location / {{
      if ($known = 0) {{ return 401; }}
      proxy_pass http://models;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_set_header Authorization \"Bearer {UPSTREAM_SECRET}\";
      proxy_buffering off;
    }}
  }}
}}
"
    )
}
