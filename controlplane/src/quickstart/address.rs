//! The addresses of the children: found free before anything is started, and held until just before their
//! owner binds.

use std::net::{SocketAddr, TcpListener};

use super::{QuickstartError, QuickstartOptions};

/// An address that nobody else can take until it is released.
pub(super) struct Reserved {
    address: SocketAddr,
    held: Option<TcpListener>,
}

impl Reserved {
    fn new(flag: &'static str, address: SocketAddr) -> Result<Self, QuickstartError> {
        // A plain bind: it also fails where the present owner shares its port with its like (SO_REUSEPORT).
        let failed = |source| QuickstartError::Address { flag, address, source };
        let held = TcpListener::bind(address).map_err(failed)?;
        let address = held.local_addr().map_err(failed)?;
        Ok(Self { address, held: Some(held) })
    }

    /// The address, with the port that was found where 0 was asked for.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets go of the address, for its owner to bind.
    pub(super) fn release(&mut self) {
        self.held = None;
    }
}

/// The four addresses.
pub(super) struct Addresses {
    pub(super) http: Reserved,
    pub(super) ops: Reserved,
    pub(super) admin: Reserved,
    pub(super) clickhouse: Reserved,
}

impl Addresses {
    /// Reserves all of them, or none.
    pub(super) fn reserve(options: &QuickstartOptions) -> Result<Self, QuickstartError> {
        let wanted = [
            ("http", options.http),
            ("ops", options.ops),
            ("admin", options.admin),
            ("clickhouse", options.clickhouse),
        ];
        for (at, (flag, address)) in wanted.iter().enumerate() {
            if let Some((other, _)) = wanted[..at].iter().find(|(_, o)| o == address && address.port() != 0) {
                return Err(QuickstartError::SameAddress { flag, other, address: *address });
            }
        }
        let [http, ops, admin, clickhouse] = wanted.map(|(flag, address)| Reserved::new(flag, address));
        Ok(Self { http: http?, ops: ops?, admin: admin?, clickhouse: clickhouse? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_address_is_refused_by_its_flag_and_port_zero_finds_a_free_one() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = Reserved::new("ops", address).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("--ops") && error.contains(&address.to_string()), "{error}");

        let mut free = Reserved::new("ops", "127.0.0.1:0".parse().unwrap()).unwrap();
        assert_ne!(free.address().port(), 0);
        assert!(TcpListener::bind(free.address()).is_err(), "held");
        free.release();
        assert!(TcpListener::bind(free.address()).is_ok(), "released");
    }
}
