//! What clients see. Each test speaks to `State` as XenStore-Logic does.

mod advisories;
mod advisories_more;
mod basics;
mod domains;
mod model;
mod output;
mod permissions;
mod quotas;
mod roles;
mod stream;
mod transactions;
mod watches;
mod world;
