//! x
mod vcpu_support;
