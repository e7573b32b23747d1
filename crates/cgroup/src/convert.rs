//! Docker's v1 weights in the units of v2.

/// CPU shares (2..=262144) as `cpu.weight` (1..=10000); 0 stays 0 and means "do not set".
///
/// The curve that the OCI runtimes agreed on in 2025 (runc 1.3.2, crun 1.23, libcontainer 0.6): a
/// quadratic in log2 through (2, 1), (1024, 100) and (262144, 10000), so that the two defaults
/// meet. The older linear map made 39 of 1024.
#[must_use]
pub fn shares_to_weight(shares: u64) -> u64 {
    match shares {
        0 => 0,
        1..=2 => 1,
        3..262_144 => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the curve lies within 1..=10000 here"
            )]
            let weight = 10_f64.powf(exponent).ceil() as u64;
            weight.clamp(1, 10_000)
        }
        _ => 10_000,
    }
}

/// Block I/O weight (10..=1000) as `io.weight` (1..=10000); 0 stays 0.
#[must_use]
pub const fn blkio_to_io_weight(weight: u16) -> u64 {
    if weight == 0 {
        return 0;
    }
    let weight = if weight < 10 {
        10
    } else if weight > 1_000 {
        1_000
    } else {
        weight
    };
    1 + ((weight as u64 - 10) * 9_999) / 990
}

/// Microseconds of quota per period for a number of CPUs in billionths: Docker's period of 100 ms.
#[must_use]
pub fn nano_cpus_to_quota(nano_cpus: u64) -> (i64, u64) {
    const PERIOD: u64 = 100_000;
    let quota = u128::from(nano_cpus) * u128::from(PERIOD) / 1_000_000_000;
    (i64::try_from(quota).unwrap_or(i64::MAX), PERIOD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        assert_eq!(shares_to_weight(0), 0);
        assert_eq!(shares_to_weight(2), 1);
        assert_eq!(shares_to_weight(1024), 100);
        assert_eq!(shares_to_weight(512), 59);
        assert_eq!(shares_to_weight(262_144), 10_000);
        assert_eq!(shares_to_weight(u64::MAX), 10_000);
    }

    #[test]
    fn io_weights() {
        assert_eq!(blkio_to_io_weight(0), 0);
        assert_eq!(blkio_to_io_weight(10), 1);
        assert_eq!(blkio_to_io_weight(500), 4950);
        assert_eq!(blkio_to_io_weight(u16::MAX), 10_000);
    }

    #[test]
    fn nano_cpus() {
        assert_eq!(nano_cpus_to_quota(1_500_000_000), (150_000, 100_000));
        assert_eq!(nano_cpus_to_quota(u64::MAX).1, 100_000);
    }
}
