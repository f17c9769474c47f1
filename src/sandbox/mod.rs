//! What a payload may do, as data: the steps that its process takes before its program, made by the parent. Nothing here starts
//! or ends a process.

pub mod always;
pub mod users;
