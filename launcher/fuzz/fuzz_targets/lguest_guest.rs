#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| launcher_fuzz::lguest_guest(data));
