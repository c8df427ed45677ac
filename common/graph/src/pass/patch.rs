//! A patch: what a pass wants changed, and how a graph is changed so.
//!
//! A patch names nodes to take away, new nodes with the node before which each stands, new
//! constants, and values whose readers shall read another value. Applying it gives a new graph in
//! which
//! - old nodes keep their order, and new ones stand where the patch says, in the order in which they
//!   were added;
//! - inputs, parameters and states are as they were, in their order;
//! - outputs, updates and gradients name the values that replace theirs;
//! - values are numbered anew: first those that no node defines, then results in order of their
//!   nodes.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::GraphError;
use crate::graph::{
    Constant, ConstantData, Graph, Node, NodeId, Origin, OutputRole, Value, ValueId,
};
use crate::infer::infer;
use crate::op::Op;
use crate::shape::TensorType;

/// A new node of a patch.
#[derive(Clone, Debug, PartialEq)]
struct NewNode {
    /// It stands before this node of the graph; the number of nodes: at the end.
    before: NodeId,
    node: Node,
}

/// What a pass wants changed in one graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    label: &'static str,
    sites: usize,
    removed: BTreeSet<NodeId>,
    dropped: BTreeSet<ValueId>,
    nodes: Vec<NewNode>,
    constants: Vec<(TensorType, ConstantData)>,
    /// Types of new values, by number past those of the graph.
    new_values: Vec<(TensorType, Origin)>,
    first_new: u32,
    substitutions: BTreeMap<ValueId, ValueId>,
    roles: Option<Vec<OutputRole>>,
    is_forward_only: bool,
}

impl Patch {
    /// A patch of `graph` that changes nothing yet; `label` says what it does, such as
    /// `log(softmax) -> log_softmax`.
    #[must_use]
    pub fn new(label: &'static str, graph: &Graph) -> Self {
        Self {
            label,
            sites: 0,
            removed: BTreeSet::new(),
            dropped: BTreeSet::new(),
            nodes: Vec::new(),
            constants: Vec::new(),
            new_values: Vec::new(),
            first_new: graph.values.len() as u32,
            substitutions: BTreeMap::new(),
            roles: None,
            is_forward_only: false,
        }
    }

    /// What the patch does.
    #[must_use]
    pub fn label(&self) -> &'static str {
        self.label
    }

    /// At how many places it does so.
    #[must_use]
    pub fn sites(&self) -> usize {
        self.sites
    }

    /// The patch, unless it changes nothing.
    #[must_use]
    pub fn some(self) -> Option<Self> {
        Some(self).filter(|patch| patch.sites > 0)
    }

    /// Counts one more place.
    pub fn count(&mut self) {
        self.sites += 1;
    }

    /// Takes a node away. Whatever reads its results must be gone, too, or read something else.
    pub fn remove(&mut self, node: NodeId) {
        self.removed.insert(node);
    }

    /// Takes a constant away that nothing reads.
    pub fn drop_constant(&mut self, value: ValueId) {
        self.dropped.insert(value);
    }

    /// True if the node has been taken away.
    #[must_use]
    pub fn removes(&self, node: NodeId) -> bool {
        self.removed.contains(&node)
    }

    /// Adds a constant.
    pub fn constant(&mut self, ty: TensorType, data: ConstantData) -> ValueId {
        let origin = Origin::Constant(self.constants.len());
        self.constants.push((ty.clone(), data));
        self.new_value(ty, origin)
    }

    /// Adds a node that stands before the node `before` of the graph, and returns its results.
    ///
    /// # Errors
    /// As [`Graph::apply`].
    pub fn node(
        &mut self,
        graph: &Graph,
        before: NodeId,
        op: impl Into<Op>,
        operands: &[ValueId],
    ) -> Result<Vec<ValueId>, GraphError> {
        let op = op.into();
        let types: Vec<&TensorType> = operands.iter().map(|&v| self.ty(graph, v)).collect();
        let types = infer(before, &op, graph.dtype, &types)?;
        let node = NodeId(self.nodes.len() as u32);
        let results = types.into_iter().enumerate();
        let results: Vec<ValueId> = results
            .map(|(result, ty)| self.new_value(ty, Origin::Node { node, result }))
            .collect();
        let node = Node {
            op,
            operands: operands.to_vec(),
            results: results.clone(),
        };
        self.nodes.push(NewNode { before, node });
        Ok(results)
    }

    /// Everything that reads `old` shall read `new`.
    pub fn substitute(&mut self, old: ValueId, new: ValueId) {
        self.substitutions.insert(old, new);
    }

    /// In place of a node, its operator applied to other operands, or another operator.
    ///
    /// # Errors
    /// As [`Graph::apply`].
    pub fn replace(
        &mut self,
        graph: &Graph,
        id: NodeId,
        op: impl Into<Op>,
        operands: &[ValueId],
    ) -> Result<(), GraphError> {
        let results = self.node(graph, id, op, operands)?;
        self.remove(id);
        for (&old, new) in graph.nodes[id.0 as usize].results.iter().zip(results) {
            self.substitute(old, new);
        }
        self.count();
        Ok(())
    }

    /// Keeps only outputs of these roles.
    pub(super) fn keep_roles(&mut self, roles: Vec<OutputRole>) {
        self.roles = Some(roles);
    }

    /// Forgets gradients and updates.
    pub(super) fn forget_training(&mut self) {
        self.is_forward_only = true;
    }

    /// The type of a value of the graph or of the patch.
    #[must_use]
    pub fn ty<'a>(&'a self, graph: &'a Graph, value: ValueId) -> &'a TensorType {
        match value.0.checked_sub(self.first_new) {
            None => &graph.value(value).ty,
            Some(new) => &self.new_values[new as usize].0,
        }
    }

    /// What stands for a value after all substitutions.
    #[must_use]
    pub fn resolve(&self, mut value: ValueId) -> ValueId {
        // A chain of substitutions is no longer than their number; a ring would be a pass's fault,
        // and the verifier refuses what comes of it.
        for _ in 0..=self.substitutions.len() {
            match self.substitutions.get(&value) {
                Some(&next) => value = next,
                None => break,
            }
        }
        value
    }

    fn new_value(&mut self, ty: TensorType, origin: Origin) -> ValueId {
        let value = ValueId(self.first_new + self.new_values.len() as u32);
        self.new_values.push((ty, origin));
        value
    }

    /// The changed graph, verified.
    ///
    /// # Errors
    /// The first breach of a rule: the patch was wrong.
    pub fn apply(&self, graph: &Graph) -> Result<Graph, GraphError> {
        Ok(self.apply_numbered(graph)?.0)
    }

    /// The changed graph, verified, and its new nodes.
    pub(super) fn apply_numbered(&self, graph: &Graph) -> Result<(Graph, Vec<NodeId>), GraphError> {
        let mut applied = Applied::new(self, graph);
        applied.fixed();
        applied.nodes();
        applied.names();
        let (graph, added) = (applied.to, applied.added);
        graph.verify()?;
        Ok((graph, added))
    }

    /// The nodes that it takes away, in order.
    pub(super) fn removed(&self) -> impl Iterator<Item = NodeId> {
        self.removed.iter().copied()
    }
}

/// A graph while a patch is applied.
struct Applied<'a> {
    patch: &'a Patch,
    from: &'a Graph,
    to: Graph,
    /// By old or new value: its number in the result.
    numbers: BTreeMap<ValueId, ValueId>,
    /// The new nodes, by their numbers in the result.
    added: Vec<NodeId>,
}

impl<'a> Applied<'a> {
    fn new(patch: &'a Patch, from: &'a Graph) -> Self {
        let to = Graph {
            name: from.name.clone(),
            dtype: from.dtype,
            values: Vec::new(),
            nodes: Vec::new(),
            inputs: from.inputs.clone(),
            parameters: from.parameters.clone(),
            constants: Vec::new(),
            states: from.states.clone(),
            updates: Vec::new(),
            outputs: Vec::new(),
            gradients: Vec::new(),
        };
        Self {
            patch,
            from,
            to,
            numbers: BTreeMap::new(),
            added: Vec::new(),
        }
    }

    fn push(&mut self, old: ValueId, ty: TensorType, origin: Origin) -> ValueId {
        let new = ValueId(self.to.values.len() as u32);
        self.to.values.push(Value { ty, origin });
        self.numbers.insert(old, new);
        new
    }

    /// Values that no node defines.
    fn fixed(&mut self) {
        for (i, value) in self.from.values.iter().enumerate() {
            let old = ValueId(i as u32);
            match value.origin {
                Origin::Node { .. } => {}
                Origin::Constant(position) => {
                    if !self.patch.dropped.contains(&old) {
                        let data = self.from.constants[position].data.clone();
                        self.constant(old, value.ty.clone(), data);
                    }
                }
                origin => {
                    let new = self.push(old, value.ty.clone(), origin);
                    match origin {
                        Origin::Input(position) => self.to.inputs[position].value = new,
                        Origin::Parameter(id) => self.to.parameters[id.0 as usize].value = new,
                        Origin::State(id) => self.to.states[id.0 as usize].value = new,
                        _ => {}
                    }
                }
            }
        }
        for (i, (ty, origin)) in self.patch.new_values.iter().enumerate() {
            if let Origin::Constant(position) = *origin {
                let old = ValueId(self.patch.first_new + i as u32);
                let data = self.patch.constants[position].1.clone();
                self.constant(old, ty.clone(), data);
            }
        }
    }

    fn constant(&mut self, old: ValueId, ty: TensorType, data: ConstantData) {
        let origin = Origin::Constant(self.to.constants.len());
        let value = self.push(old, ty, origin);
        self.to.constants.push(Constant { value, data });
    }

    fn nodes(&mut self) {
        let mut new: Vec<&NewNode> = self.patch.nodes.iter().collect();
        // Stable: nodes at one place stay in the order in which they were added.
        new.sort_by_key(|node| node.before);
        let mut new = new.into_iter().peekable();
        for (i, node) in self.from.nodes.iter().enumerate() {
            let id = NodeId(i as u32);
            while let Some(inserted) = new.next_if(|inserted| inserted.before <= id) {
                self.new_node(&inserted.node);
            }
            if !self.patch.removed.contains(&id) {
                self.node(node);
            }
        }
        for inserted in new {
            self.new_node(&inserted.node);
        }
    }

    fn new_node(&mut self, node: &Node) {
        self.added.push(NodeId(self.to.nodes.len() as u32));
        self.node(node);
    }

    fn node(&mut self, node: &Node) {
        let id = NodeId(self.to.nodes.len() as u32);
        let operands = node.operands.iter().map(|&value| self.number(value));
        let operands = operands.collect();
        let mut results = Vec::with_capacity(node.results.len());
        for (result, &old) in node.results.iter().enumerate() {
            let ty = self.patch.ty(self.from, old).clone();
            results.push(self.push(old, ty, Origin::Node { node: id, result }));
        }
        let op = node.op.clone();
        self.to.nodes.push(Node {
            op,
            operands,
            results,
        });
    }

    /// The number of what stands for a value; out of range if it isn't defined yet, which the
    /// verifier refuses.
    fn number(&self, value: ValueId) -> ValueId {
        let value = self.patch.resolve(value);
        let found = self.numbers.get(&value);
        found.copied().unwrap_or(ValueId(u32::MAX))
    }

    fn names(&mut self) {
        for output in &self.from.outputs {
            let roles = self.patch.roles.as_ref();
            if roles.is_none_or(|roles| roles.contains(&output.role)) {
                let mut output = output.clone();
                output.value = self.number(output.value);
                self.to.outputs.push(output);
            }
        }
        if self.patch.is_forward_only {
            return;
        }
        for &(mut update) in &self.from.updates {
            update.value = self.number(update.value);
            self.to.updates.push(update);
        }
        for &(mut gradient) in &self.from.gradients {
            gradient.value = self.number(gradient.value);
            self.to.gradients.push(gradient);
        }
    }
}
