//! Who comes next among those that have been accepted and not yet handed to the scheduler, which serves in the order in
//! which it is handed requests.
//!
//! First the urgent (a smaller priority is more urgent), then whoever has been served least, then the first to come.
//! Who has been served how much is counted in tokens, per owner: a prompt's when it is handed over, and what is generated
//! when it is, twice, since it costs more (the virtual token counter of Sheng et al., OSDI 2024). An owner that comes back
//! after a pause starts where the least served of the others stands: time in which one asked for nothing is not saved up.

use std::collections::{BTreeMap, HashMap};

use crate::inbox::{Arriving, RequestId};

/// Whose a request is, as far as fairness is concerned.
pub type Owner = u32;

/// What a generated token counts, where one of a prompt counts 1.
const GENERATED: u64 = 2;

/// A place among the requests of one owner.
type Place = (i32, RequestId);

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Line {
    /// No owner has an empty queue.
    queues: BTreeMap<Owner, BTreeMap<Place, Arriving>>,
    places: HashMap<RequestId, (Owner, i32)>,
    /// Tokens that each owner has been served, or is taken to have been.
    served: BTreeMap<Owner, u64>,
    last: Owner,
}

impl Line {
    pub(crate) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    pub(crate) fn push(&mut self, request: Arriving) {
        let (owner, priority, id) = (request.owner, request.job.params.priority, request.id);
        if !self.queues.contains_key(&owner) {
            let waiting = self.queues.keys().map(|other| self.served_of(*other)).min();
            let floor = waiting.unwrap_or_else(|| self.served_of(self.last));
            let served = self.served.entry(owner).or_default();
            *served = floor.max(*served);
        }
        self.places.insert(id, (owner, priority));
        self.queues.entry(owner).or_default().insert((priority, id), request);
    }

    /// Takes the request that is next.
    pub(crate) fn next(&mut self) -> Option<Arriving> {
        let heads = self.queues.iter().filter_map(|(owner, queue)| {
            let (&(priority, id), _) = queue.first_key_value()?;
            Some((priority, self.served_of(*owner), id))
        });
        let (_, _, id) = heads.min()?;
        let request = self.remove(id)?;
        self.last = request.owner;
        let prompt = u64::try_from(request.job.prompt.len()).unwrap_or(u64::MAX);
        self.charge(request.owner, prompt);
        Some(request)
    }

    /// Takes a request out, wherever it stands.
    pub(crate) fn remove(&mut self, id: RequestId) -> Option<Arriving> {
        let (owner, priority) = self.places.remove(&id)?;
        let queue = self.queues.get_mut(&owner)?;
        let request = queue.remove(&(priority, id));
        if queue.is_empty() {
            self.queues.remove(&owner);
        }
        request
    }

    /// Counts tokens that were generated for an owner.
    pub(crate) fn generated(&mut self, owner: Owner, tokens: u64) {
        self.charge(owner, GENERATED.saturating_mul(tokens));
    }

    fn charge(&mut self, owner: Owner, tokens: u64) {
        let served = self.served.entry(owner).or_default();
        *served = served.saturating_add(tokens);
    }

    fn served_of(&self, owner: Owner) -> u64 {
        self.served.get(&owner).copied().unwrap_or(0)
    }
}
