#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cumulet_fuzz::decoders::hyperdrive_entry(data));
