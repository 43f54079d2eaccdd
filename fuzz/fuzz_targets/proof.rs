#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cumulet_fuzz::cores::proof(data));
