//! The methods of a cluster's clients and pipelines that are faces: which node's client makes the call, or which queue collects it.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use super::bases::DirectCalls;
use super::face::{Stock, has_own, own_attributes};
use super::{blocking, call};
use crate::cluster::state::ClusterCore;

/// Whose method it is.
pub(super) enum Routed {
    /// That of a client; what has to stand in the class of the clients of its nodes.
    Client(Stock),
    /// That of a pipeline.
    Pipeline,
}

impl Routed {
    /// What the call leads to; `None` where the ordinary way has to be taken.
    ///
    /// - A client has a `ClusterCore` as its attribute `_direct_core` while every command goes to the owner of its key. That node's
    ///   client makes the call, as it does for one server.
    /// - A pipeline has a list as its attribute `_collected` while commands are collected. The words are appended to it.
    #[inline]
    pub(super) fn go_straight<'py>(
        &self,
        called: &Bound<'py, PyAny>,
        asynchronous: bool,
        words: impl FnOnce() -> Option<Bound<'py, PyTuple>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = called.py();
        let Some(own) = own_attributes(called) else { return Ok(None) };
        if own.contains(intern!(py, "execute_command"))? {
            return Ok(None);
        }
        let nodes = match self {
            Self::Client(nodes) => nodes,
            Self::Pipeline => {
                let Some(queue) = own.get_item(intern!(py, "_collected"))? else { return Ok(None) };
                let (Ok(queue), Some(words)) = (queue.cast_into_exact::<PyList>(), words()) else { return Ok(None) };
                queue.append(words)?;
                return Ok(Some(called.clone()));
            }
        };
        let Some(core) = own.get_item(intern!(py, "_direct_core"))? else { return Ok(None) };
        let (Ok(core), Some(words)) = (core.cast_into_exact::<ClusterCore>(), words()) else { return Ok(None) };
        let Some(node) = core.get().owner_of(&words.get_item(1)?)? else { return Ok(None) };
        let own_ways = [intern!(py, "execute_command"), intern!(py, "execute_routed"), intern!(py, "parse_response")];
        if !nodes.is_met_by(&node) || has_own(&node, own_ways) {
            return Ok(None);
        }
        // SAFETY: the class has these methods, so it is one.
        #[expect(unsafe_code, reason = "it was looked at")]
        let node: Bound<'py, DirectCalls> = unsafe { node.cast_into_unchecked() };
        if asynchronous {
            return call::new(&node, words, None, None).map(Some);
        }
        blocking::call_or_recover(&node, &words, None, intern!(py, "_recover_routed"))
    }
}
