#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    launcher_fuzz::disk_image(data);
});
