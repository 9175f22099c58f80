#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| lgswitch_fuzz::header(data));
