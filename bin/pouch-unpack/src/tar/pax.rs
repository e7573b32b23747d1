//! Extended header records: `<length> <key>=<value>\n` (pax(1), POSIX.1-2017).

use pouch_rootfd::FileTime;

use super::TarError;
use crate::limits::{XATTR_NAME, XATTR_VALUE, XATTRS};

/// What the extended headers before an entry override.
#[derive(Debug, Default)]
pub(super) struct Overrides {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) modified: Option<FileTime>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: SparseRecords,
    /// Why the headers cannot be believed.
    pub(super) broken: Option<TarError>,
}

/// GNU's three ways to describe a sparse file in pax records.
#[derive(Debug, Default)]
pub(super) struct SparseRecords {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) real_size: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    /// 0.1: `offset,length,offset,length,…`; 0.0: the same from repeated records.
    pub(super) map: Vec<u64>,
}

impl SparseRecords {
    pub(super) fn is_present(&self) -> bool {
        self.major.is_some() || self.real_size.is_some() || !self.map.is_empty()
    }
}

/// Adds the records in `data` to `overrides`.
pub(super) fn parse(mut data: &[u8], overrides: &mut Overrides) -> Result<(), TarError> {
    while !data.is_empty() {
        let space = data.iter().take(21).position(|b| *b == b' ').ok_or(TarError::Pax)?;
        let length = usize::try_from(decimal(&data[..space])?).map_err(|_| TarError::Pax)?;
        if length <= space + 1 || length > data.len() || data[length - 1] != b'\n' {
            return Err(TarError::Pax);
        }
        let record = &data[space + 1..length - 1];
        let equals = record.iter().position(|b| *b == b'=').ok_or(TarError::Pax)?;
        let key = &record[..equals];
        apply(key, &record[equals + 1..], overrides).map_err(|error| match error {
            TarError::Pax => {
                TarError::Record(String::from_utf8_lossy(key).chars().take(80).collect())
            }
            other => other,
        })?;
        data = &data[length..];
    }
    Ok(())
}

fn apply(key: &[u8], value: &[u8], to: &mut Overrides) -> Result<(), TarError> {
    // An empty value takes an override back.
    let number = |value: &[u8]| {
        if value.is_empty() { Ok(None) } else { decimal(value).map(Some) }
    };
    match key {
        b"path" => to.path = text(value)?,
        b"linkpath" => to.link = text(value)?,
        b"size" => to.size = number(value)?,
        b"uid" => to.uid = number(value)?,
        b"gid" => to.gid = number(value)?,
        b"mtime" => {
            to.modified = if value.is_empty() { None } else { Some(timestamp(value)?) };
        }
        b"GNU.sparse.major" => to.sparse.major = number(value)?,
        b"GNU.sparse.minor" => to.sparse.minor = number(value)?,
        b"GNU.sparse.name" => to.sparse.name = text(value)?,
        b"GNU.sparse.size" | b"GNU.sparse.realsize" => to.sparse.real_size = number(value)?,
        b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
            // Version 0.0 repeats these in pairs, an offset first.
            let expects_offset = to.sparse.map.len().is_multiple_of(2);
            if expects_offset != (key == b"GNU.sparse.offset") {
                return Err(TarError::Sparse);
            }
            to.sparse.map.push(decimal(value)?);
        }
        b"GNU.sparse.map" => {
            to.sparse.map.clear();
            if !value.is_empty() {
                for number in value.split(|b| *b == b',') {
                    to.sparse.map.push(decimal(number)?);
                }
            }
        }
        _ => {
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                if name.is_empty() || name.contains(&0) {
                    return Err(TarError::Pax);
                }
                xattr(name, value, to)?;
            }
        }
    }
    Ok(())
}

fn xattr(name: &[u8], value: &[u8], to: &mut Overrides) -> Result<(), TarError> {
    if name.len() > XATTR_NAME {
        return Err(TarError::XattrName(name.len()));
    }
    if value.len() > XATTR_VALUE {
        let name = String::from_utf8_lossy(name).into_owned();
        return Err(TarError::XattrValue { name, length: value.len() });
    }
    if name == b"security.capability" && value.is_empty() {
        // The kernel takes it, and then nothing can run the file or read the attribute.
        return Err(TarError::EmptyCapability);
    }
    to.xattrs.retain(|(known, _)| known != name);
    if to.xattrs.len() == XATTRS {
        return Err(TarError::TooManyXattrs);
    }
    to.xattrs.push((name.to_vec(), value.to_vec()));
    Ok(())
}

fn text(value: &[u8]) -> Result<Option<Vec<u8>>, TarError> {
    if value.contains(&0) {
        return Err(TarError::NulInName);
    }
    Ok(if value.is_empty() { None } else { Some(value.to_vec()) })
}

pub(super) fn decimal(digits: &[u8]) -> Result<u64, TarError> {
    if digits.is_empty() || digits.len() > 20 {
        return Err(TarError::Pax);
    }
    digits.iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'9' => value
            .checked_mul(10)
            .and_then(|value| value.checked_add(u64::from(digit - b'0')))
            .ok_or(TarError::Pax),
        _ => Err(TarError::Pax),
    })
}

/// `[-]seconds[.fraction]`; digits beyond nanoseconds are dropped.
fn timestamp(value: &[u8]) -> Result<FileTime, TarError> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let (whole, fraction) = match value.iter().position(|b| *b == b'.') {
        Some(dot) => (&value[..dot], &value[dot + 1..]),
        None => (value, &[][..]),
    };
    let seconds = i64::try_from(decimal(whole)?).map_err(|_| TarError::Field("mtime"))?;
    let mut nanoseconds = 0u32;
    let mut scale = 100_000_000;
    for digit in fraction {
        if !digit.is_ascii_digit() {
            return Err(TarError::Field("mtime"));
        }
        nanoseconds += u32::from(digit - b'0') * scale;
        scale /= 10;
    }
    Ok(match (negative, nanoseconds) {
        (false, _) => FileTime { seconds, nanoseconds },
        (true, 0) => FileTime { seconds: -seconds, nanoseconds: 0 },
        (true, _) => FileTime { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_override_and_take_back() {
        let mut to = Overrides::default();
        parse(b"12 path=a/b\n10 size=7\n22 mtime=1700000000.5\n", &mut to).unwrap();
        assert_eq!(to.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!(to.size, Some(7));
        let when = FileTime { seconds: 1_700_000_000, nanoseconds: 500_000_000 };
        assert_eq!(to.modified, Some(when));
        parse(b"8 path=\n", &mut to).unwrap();
        assert_eq!(to.path, None);
    }

    #[test]
    fn times_before_1970() {
        let at = |text: &str| timestamp(text.as_bytes()).unwrap();
        assert_eq!(at("-1.25"), FileTime { seconds: -2, nanoseconds: 750_000_000 });
        assert_eq!(at("-3"), FileTime { seconds: -3, nanoseconds: 0 });
        assert_eq!(at("0.0000000019"), FileTime { seconds: 0, nanoseconds: 1 });
        assert!(timestamp(b"1e9").is_err());
        assert!(timestamp(b"9999999999999999999").is_err());
    }

    #[test]
    fn attributes_have_the_kernel_s_bounds() {
        let add = |to: &mut Overrides, name: &str, length: usize| {
            apply(format!("SCHILY.xattr.user.{name}").as_bytes(), &vec![7; length], to)
        };
        let mut to = Overrides::default();
        add(&mut to, &"n".repeat(XATTR_NAME - 5), XATTR_VALUE).unwrap();
        let long = add(&mut to, &"n".repeat(XATTR_NAME - 4), 1);
        assert!(matches!(long, Err(TarError::XattrName(256))));
        let wide = add(&mut to, "wide", XATTR_VALUE + 1);
        assert!(matches!(wide, Err(TarError::XattrValue { length: 65_537, .. })));
        for n in 1..XATTRS {
            add(&mut to, &n.to_string(), 1).unwrap();
        }
        add(&mut to, "7", 2).unwrap();
        assert!(matches!(add(&mut to, "more", 1), Err(TarError::TooManyXattrs)));
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            &b"5 a=b"[..],
            b"99999999999999999999999 path=x\n",
            b"0 path=x\n",
            b"2 \n",
            b"100 path=x\n",
            b"x path=x\n",
            b"9 pathxx\n",
            b"11 path=a\0b\n",
            b"12 size=-12\n",
            b"11 uid=0x1\n",
        ] {
            assert!(parse(bad, &mut Overrides::default()).is_err(), "{bad:?}");
        }
    }
}
