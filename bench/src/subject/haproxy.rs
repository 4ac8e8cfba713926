//! HAProxy: one thread, upstream connections shared by all clients, keys in an ACL file, no log.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::{Name, Setting, Subject, UPSTREAM_SECRET, directory, free_address, installed, version};
use crate::process::Running;

/// Starts HAProxy.
pub(super) fn start(setting: &Setting<'_>) -> anyhow::Result<Subject> {
    let program = installed("haproxy", "haproxy")?;
    let (dir, address) = (directory()?, free_address()?);
    let known = &setting.keys.known;
    let list: String = known.iter().map(|key| format!("Bearer {key}\n")).collect();
    let file = dir.path().join("keys");
    std::fs::write(&file, list)?;
    let config = dir.path().join("haproxy.cfg");
    let tls = match setting.tls {
        // It finds the key beside the certificate.
        Some(certified) => {
            let files = certified.write(dir.path())?;
            format!(" ssl crt {} ssl-min-ver TLSv1.3", files.certificate.display())
        }
        None => String::new(),
    };
    std::fs::write(&config, configuration(&file, address, &tls, setting))?;
    let about = format!("{}, ACL file of {} keys, key swapped", version(&program, "-v")?, known.len());
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(&config);
    Ok(Subject::process(
        Name::Haproxy,
        about,
        address,
        Running::start_on(command, setting.cores())?,
        vec![dir],
    ))
}

fn configuration(keys: &Path, address: SocketAddr, tls: &str, setting: &Setting<'_>) -> String {
    let Setting { upstream, connections, workers, .. } = setting;
    let keys = keys.display();
    format!(
        "global
  nbthread {workers}
  maxconn {connections}
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  option http-no-delay
  http-reuse always
frontend clients
  bind {address} backlog 4096{tls}
  acl known req.hdr(authorization) -m str -f {keys}
  http-request deny deny_status 401 unless known
  http-request set-header authorization \"Bearer {UPSTREAM_SECRET}\"
  default_backend models
backend models
  server model {upstream} pool-max-conn -1
"
    )
}
