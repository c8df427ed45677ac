//! What the system says of this process's memory.

/// The most memory that was ever resident, in bytes: `VmHWM` of Linux's `/proc/self/status`. `None`
/// where there is no such file.
#[must_use]
pub fn resident_bytes_max() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    high_water_mark(&status)
}

fn high_water_mark(status: &str) -> Option<u64> {
    let rest = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_read_in_bytes() {
        assert_eq!(
            high_water_mark("VmPeak:\t  99 kB\nVmHWM:\t  12 kB\n"),
            Some(12 * 1024)
        );
        for damaged in ["", "VmHWM:", "VmHWM: x kB", "VmHWM: 3 MB"] {
            assert_eq!(high_water_mark(damaged), None, "{damaged}");
        }
    }
}
