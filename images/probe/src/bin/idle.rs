//! A VM that is healthy and does nothing.
#![forbid(unsafe_code)]

fn main() -> ! {
    ennead_runtime::run(|runtime| {
        tracing::info!("started");
        runtime.health.report()?;
        loop {
            std::thread::park();
        }
    })
}
