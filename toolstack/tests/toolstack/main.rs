//! The toolstack with made-up neighbours, asked by the real client.

mod boot;
mod disks;
mod http;
mod lives;
mod network;
mod volumes;
mod world;
