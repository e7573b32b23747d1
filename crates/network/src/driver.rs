//! The seam between [`crate::Networks`], which owns records, addresses, ports and packet rules,
//! and the kinds of networks, which own interfaces.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::endpoint::{AttachRequest, Endpoint};
use crate::error::NetworkError;
use crate::mac::MacAddr;
use crate::subnet::Subnet;

/// A request that the driver accepts: nothing was done yet.
#[derive(Debug)]
pub struct Validated {
    pub(crate) netns: Option<PathBuf>,
    pub(crate) addressing: Option<Addressing>,
}

/// What a driver that has addresses needs of the lease.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addressing {
    pub(crate) subnet: Subnet,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) fixed: Option<Ipv4Addr>,
    pub(crate) mac: Option<MacAddr>,
}

/// An attachment whose address and ports are recorded as its own.
#[derive(Debug, Clone)]
pub struct Leased {
    pub(crate) endpoint: Endpoint,
    pub(crate) netns: Option<PathBuf>,
}

/// A kind of network. The methods that touch the kernel block for milliseconds and run on
/// threads made for it.
pub trait NetworkDriver: Send + Sync + std::fmt::Debug {
    /// Checks a request without touching anything.
    ///
    /// # Errors
    /// [`NetworkError`] of the invalid kind, naming the option.
    fn validate(&self, request: &AttachRequest) -> Result<Validated, NetworkError>;

    /// Makes what all attachments share, if it is not there.
    ///
    /// # Errors
    /// [`NetworkError`].
    fn prepare(&self) -> Result<(), NetworkError>;

    /// Puts the interface in place. On failure nothing of it is left.
    ///
    /// # Errors
    /// [`NetworkError`].
    fn setup(&self, leased: &Leased) -> Result<(), NetworkError>;

    /// Whether the interface of `endpoint` is there.
    ///
    /// # Errors
    /// [`NetworkError`].
    fn is_up(&self, endpoint: &Endpoint) -> Result<Presence, NetworkError>;

    /// Takes the interface away; an absent one is no error.
    ///
    /// # Errors
    /// [`NetworkError`].
    fn teardown(&self, endpoint: &Endpoint) -> Result<(), NetworkError>;
}

/// Answer of [`NetworkDriver::is_up`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is there, or the driver has none to lose.
    Present,
    /// It is gone.
    Absent,
}

/// `host`: the container has no namespace of its own, so there is nothing to set up.
#[derive(Debug)]
pub(crate) struct HostDriver;

/// `none`: the namespace stays as it was made, with loopback alone.
#[derive(Debug)]
pub(crate) struct NullDriver;

fn refuse_addresses(request: &AttachRequest) -> Result<(), NetworkError> {
    let option = match (request.mac, request.ipv4) {
        (Some(_), _) => "a MAC address",
        (None, Some(_)) => "a fixed IP address",
        (None, None) => return Ok(()),
    };
    Err(NetworkError::Option { network: request.network.clone(), option })
}

macro_rules! without_interface {
    ($driver:ty) => {
        impl NetworkDriver for $driver {
            fn validate(&self, request: &AttachRequest) -> Result<Validated, NetworkError> {
                refuse_addresses(request)?;
                Ok(Validated { netns: request.netns.clone(), addressing: None })
            }

            fn prepare(&self) -> Result<(), NetworkError> {
                Ok(())
            }

            fn setup(&self, _: &Leased) -> Result<(), NetworkError> {
                Ok(())
            }

            fn is_up(&self, _: &Endpoint) -> Result<Presence, NetworkError> {
                Ok(Presence::Present)
            }

            fn teardown(&self, _: &Endpoint) -> Result<(), NetworkError> {
                Ok(())
            }
        }
    };
}

without_interface!(HostDriver);
without_interface!(NullDriver);
