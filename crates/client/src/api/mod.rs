//! One method of [`crate::Client`] per endpoint, grouped as the API groups them.
//!
//! Methods that return decoded types have a `…_raw` twin where the CLI shows the daemon's JSON as
//! it came, order of members included.

pub(crate) mod containers;
pub(crate) mod exec;
pub(crate) mod images;
pub(crate) mod networks;
pub(crate) mod system;
pub(crate) mod volumes;
