//! Any bytes as a frame's header: an error, or a header that encodes to the same bytes. Never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringfold_collective::HEADER_BYTES;
use ringfold_collective::testing::takes_header;

fuzz_target!(|bytes: [u8; HEADER_BYTES]| {
    takes_header(&bytes);
    // A random checksum is hardly ever right, so the right one is put in place (32-bit FNV-1a).
    let mut checked = bytes;
    let checksum = checked[..56].iter().fold(0x811c_9dc5_u32, |hash, &byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    checked[56..60].copy_from_slice(&checksum.to_le_bytes());
    takes_header(&checked);
});
