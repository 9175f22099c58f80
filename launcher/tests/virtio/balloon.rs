//! The balloon.

use launcher::engine::kvm::virtio::balloon;

use super::driver::*;

crate::tests!(
    reported_pages_are_the_hosts_again,
    pages_in_the_balloon_are_the_hosts_and_others_stay,
    numbers_of_no_page_and_too_many_of_them_harm_nobody,
);

fn bed() -> Driver {
    Driver::started(balloon::device().unwrap(), 1 << 5)
}

fn page(driver: &Driver, number: u64) -> u8 {
    driver.get(number * 4096, 1)[0]
}

fn fill(driver: &Driver, numbers: std::ops::Range<u64>) {
    use vm_memory::{Bytes, GuestAddress};
    for number in numbers {
        driver
            .memory
            .write_slice(&[7; 4096], GuestAddress(number * 4096))
            .unwrap();
    }
}

fn reported_pages_are_the_hosts_again() {
    let driver = bed();
    // By whichever number the driver knows the queue.
    for queue in 2..5 {
        fill(&driver, 512..600);
        driver.request(
            queue,
            &[(513 * 4096, 4096 * 3, true), (520 * 4096 + 100, 8192, true)],
        );
        let zero: Vec<_> = (512..524).filter(|&n| page(&driver, n) == 0).collect();
        assert_eq!(zero, [513, 514, 515, 521]);
    }
}

fn pages_in_the_balloon_are_the_hosts_and_others_stay() {
    let driver = bed();
    fill(&driver, 512..600);
    let numbers: Vec<u8> = [520u32, 521, 519, 530, 560, 559]
        .iter()
        .flat_map(|n| n.to_le_bytes())
        .collect();
    let at = driver.put(&numbers);
    driver.request(0, &[(at, numbers.len() as u32, false)]);
    let zero: Vec<_> = (512..600).filter(|&n| page(&driver, n) == 0).collect();
    assert_eq!(zero, [519, 520, 521, 530, 559, 560]);
    driver.request(1, &[(at, numbers.len() as u32, false)]);
}

fn numbers_of_no_page_and_too_many_of_them_harm_nobody() {
    let driver = bed();
    fill(&driver, 512..600);
    let numbers: Vec<u8> = [u32::MAX, 0x10_0000, 1024, 0xf_ffff]
        .iter()
        .flat_map(|n| n.to_le_bytes())
        .collect();
    let at = driver.put(&numbers);
    driver.request(0, &[(at, numbers.len() as u32 + 3, false)]);
    assert!((512..600).all(|n| page(&driver, n) == 7));
    driver.offer(0, &[(at, 1 << 20, false)]);
    driver.wait_until_broken();
}
