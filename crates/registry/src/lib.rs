//! Registry protocol: references to verified streams
