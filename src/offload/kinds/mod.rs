//! One file a kind: its view, its plan, its forge. The loop that drives them all is [`super::reflect`].

pub(crate) mod config_map;
pub(crate) mod copy;
pub(crate) mod endpoint_slice;
pub(crate) mod pod;
pub(crate) mod pod_spec;
pub(crate) mod pod_status;
pub(crate) mod pod_view;
pub(crate) mod service;
pub(crate) mod shadow;
