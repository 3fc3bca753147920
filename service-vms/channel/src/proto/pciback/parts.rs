//! pciback's side: a list that is longer than a message.

use super::{CONTROLLERS_PER_REPLY, Controller, MAX_CONTROLLERS, Reply};
use crate::List;

/// The replies that tell a list of controllers (at least one reply, the first `MAX_CONTROLLERS` controllers).
pub fn controllers_in_parts(controllers: &[Controller]) -> Vec<Reply> {
    let told: Vec<_> = controllers.iter().take(MAX_CONTROLLERS).cloned().collect();
    let parts: Vec<_> = if told.is_empty() {
        vec![List::default()]
    } else {
        told.chunks(CONTROLLERS_PER_REPLY).filter_map(|part| List::new(part.to_vec())).collect()
    };
    let last = parts.len() - 1;
    (0u16..)
        .zip(parts)
        .map(|(index, controllers)| Reply::Controllers {
            index,
            more: usize::from(index) < last,
            controllers,
        })
        .collect()
}
