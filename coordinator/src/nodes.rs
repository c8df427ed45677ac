//! `ClusterService`.

use std::collections::BTreeMap;

use ringfold_proto::v1;
use ringfold_proto::v1::cluster_service_server::ClusterService;
use tonic::{Request, Response, Status};

use crate::engine::Handle;
use crate::wire;

pub(crate) struct Nodes {
    engine: Handle,
}

impl Nodes {
    pub fn new(engine: Handle) -> Self {
        Self { engine }
    }
}

#[tonic::async_trait]
impl ClusterService for Nodes {
    async fn list_nodes(
        &self,
        _request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let nodes = self
            .engine
            .query(|core| {
                let mut nodes: BTreeMap<(String, String), Vec<v1::Slot>> = BTreeMap::new();
                for view in core.slots() {
                    let key = (view.info.node.0.clone(), view.info.host.clone());
                    nodes.entry(key).or_default().push(wire::slot(&view));
                }
                nodes
            })
            .await?;
        let nodes = nodes
            .into_iter()
            .map(|((name, host), slots)| v1::Node { name, host, slots })
            .collect();
        let coordinator_version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Response::new(v1::ListNodesResponse {
            nodes,
            coordinator_version,
        }))
    }
}
