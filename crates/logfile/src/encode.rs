//! Encoding of records, with what is the same for many of them done once.

use std::collections::BTreeMap;

use crate::{Driver, RecordRef, cri, json, local};

/// Encodes records in one format.
///
/// The records of one read share their time, so the last one's text is kept.
#[derive(Debug, Clone)]
pub struct Encoder {
    driver: Driver,
    /// `"attrs":{…},` or nothing.
    attrs: Vec<u8>,
    stamp_ns: i64,
    stamp: String,
}

impl Encoder {
    /// An encoder that writes `attrs` into each record, if `driver` has a place for them.
    #[must_use]
    pub fn new(driver: Driver, attrs: &BTreeMap<String, String>) -> Self {
        let attrs = match driver {
            Driver::JsonFile => json::attrs(attrs),
            Driver::Local | Driver::Cri => Vec::new(),
        };
        Self { driver, attrs, stamp_ns: 0, stamp: json::stamp(0) }
    }

    /// The format.
    #[must_use]
    pub fn driver(&self) -> Driver {
        self.driver
    }

    /// Appends `record` to `out`.
    pub fn encode(&mut self, record: RecordRef<'_>, out: &mut Vec<u8>) {
        match self.driver {
            Driver::JsonFile => {
                self.stamp(record.time_ns);
                json::encode(record, &self.attrs, &self.stamp, out);
            }
            Driver::Local => local::encode(record, out),
            Driver::Cri => {
                self.stamp(record.time_ns);
                cri::encode(record, &self.stamp, out);
            }
        }
    }

    fn stamp(&mut self, time_ns: i64) {
        if time_ns != self.stamp_ns {
            self.stamp_ns = time_ns;
            self.stamp = json::stamp(time_ns);
        }
    }
}
