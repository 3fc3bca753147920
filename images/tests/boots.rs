//! The end-to-end tests: real Xen in QEMU. They take minutes, so `cargo test` leaves them out (`test = false` in Cargo.toml);
//! `./test` runs them one after the other (`--test boots -- --test-threads=1`). Names that begin with `long_` are for `./test --long`.
#![forbid(unsafe_code)]

use ennead_images::cache::Cache;
use ennead_images::host::{self, Options};
use ennead_images::progress::Progress;
use ennead_images::qemu::Settings;
use ennead_images::scenario::{self, Setup};

fn setup() -> Setup {
    let build = Options::standard();
    let memory_mib = ennead_images::plan::check(&build.manifest).unwrap().plan.host.memory_mib;
    // Emulated, as every machine can: KVM hides mistakes that only slow machines show.
    let machine = Settings::emulated(build.out.clone(), memory_mib, build.out.with_file_name("serial.log"));
    Setup { cache: Cache::from_environment().unwrap(), progress: Progress::Plain, build, machine }
}

fn holds(name: &str) {
    let report = scenario::find(name).unwrap().run(&setup(), true);
    println!("{}", report.figures());
    assert!(
        report.failed().is_empty(),
        "{} checks held, these did not:\n{}",
        report.held(),
        report.failed().join("\n")
    );
    assert!(report.held() > 0, "nothing was checked");
}

#[test]
fn a_host_boots_and_has_no_dom0() {
    holds("boot");
}

#[test]
fn bios_and_uefi_start_the_same_iso() {
    holds("firmware");
}

#[test]
fn modified_files_are_refused() {
    holds("refuse");
}

#[test]
fn a_vm_that_cannot_start_is_named() {
    holds("fault");
}

#[test]
fn vms_come_and_go_without_a_trace() {
    holds("vms");
}

#[test]
fn driver_vms_have_their_controllers_to_themselves() {
    holds("lending");
}

#[test]
fn guests_keep_disks_and_networks_while_backends_are_killed() {
    holds("drivers");
}

#[test]
fn long_guests_keep_disks_and_networks_through_forty_restarts() {
    holds("drivers-long");
}

#[test]
fn what_is_flushed_outlives_the_power() {
    holds("cut");
}

#[test]
fn long_hostile_frontends_are_disconnected() {
    holds("frontends");
}

#[test]
fn long_storms_of_hostile_frontends_hurt_nobody() {
    holds("storms");
}

#[test]
fn service_vms_are_restarted_politely() {
    holds("restart");
}

#[test]
fn xenstore_state_hands_over() {
    holds("handover");
}

#[test]
fn long_other_controllers_serve_guests() {
    holds("controllers");
}

#[test]
fn long_volumes_are_made_and_used() {
    holds("disks");
}

#[test]
fn long_a_subverted_netback_reaches_nothing() {
    holds("subverted");
}

#[test]
fn guests_live_their_whole_lives() {
    holds("guests");
}

#[test]
fn operators_come_over_the_network_with_a_certificate() {
    holds("network");
}

#[test]
fn tenants_are_kept_apart() {
    holds("tenants");
}

#[test]
fn xenstore_survives_restarts() {
    holds("xenstore");
}

#[test]
fn long_two_hundred_guests_leave_nothing() {
    holds("cycles");
}

#[test]
fn long_xenstore_survives_a_storm() {
    holds("storm");
}

#[test]
fn power_off_and_reboot_work() {
    holds("power");
}

#[test]
fn forbidden_operations_are_refused() {
    holds("privileges");
}

#[test]
fn long_ten_boots_in_a_row_succeed() {
    holds("repeat");
}

#[test]
fn what_does_not_start_goes_back_to_previous_images() {
    holds("previous");
}

#[test]
fn long_fifty_boots_in_a_row_succeed() {
    holds("soak");
}

/// Who audits Builder reads no more than this.
#[test]
fn builder_has_at_most_8000_lines_of_ours() {
    let lines = ennead_images::lines::of_program(&setup().cache, Progress::Silent, "builder").unwrap();
    println!("{lines} lines");
    assert!((1000..=8000).contains(&lines), "Builder has {lines} lines of ours");
}

#[test]
fn the_same_inputs_give_the_same_iso() {
    let setup = setup();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str| {
        let iso = folder.path().join(name);
        let host = host::build(&setup.cache, Progress::Silent, &setup.build).unwrap();
        host.write_iso(&setup.cache, Progress::Silent, &iso).unwrap();
        std::fs::read(iso).unwrap()
    };
    let first = write("one.iso");
    // Dates in files count in seconds, those of FAT in two.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert!(first == write("two.iso"), "two builds of the same host differ");
    assert!(first.len() <= 64 << 20, "the ISO is larger than 64 MiB: {} bytes", first.len());
}
