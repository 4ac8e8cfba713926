//! HAProxy: one thread, upstream connections shared by all clients, keys in an ACL file, no log.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::{Name, Subject, UPSTREAM_SECRET, directory, free_address, installed, version};
use crate::keys::Keys;
use crate::process::Running;

/// Starts HAProxy.
pub(super) fn start(upstream: SocketAddr, keys: &Keys) -> anyhow::Result<Subject> {
    let program = installed("haproxy", "haproxy")?;
    let (dir, address) = (directory()?, free_address()?);
    let list: String = keys.known.iter().map(|key| format!("Bearer {key}\n")).collect();
    let file = dir.path().join("keys");
    std::fs::write(&file, list)?;
    let config = dir.path().join("haproxy.cfg");
    std::fs::write(&config, configuration(&file, address, upstream))?;
    let about = format!("{}, ACL file of {} keys, key swapped", version(&program, "-v")?, keys.known.len());
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(&config);
    Ok(Subject::process(Name::Haproxy, about, address, Running::start(command)?, vec![dir]))
}

fn configuration(keys: &Path, address: SocketAddr, upstream: SocketAddr) -> String {
    let keys = keys.display();
    format!(
        "global
  nbthread 1
  maxconn 4096
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  option http-no-delay
  http-reuse always
frontend clients
  bind {address} backlog 4096
  acl known req.hdr(authorization) -m str -f {keys}
  http-request deny deny_status 401 unless known
  http-request set-header authorization \"Bearer {UPSTREAM_SECRET}\"
  default_backend models
backend models
  server model {upstream} pool-max-conn -1
"
    )
}
