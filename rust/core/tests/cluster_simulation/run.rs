//! One run: events in the order of their time, faults of a scenario, and what must hold.

use std::collections::BTreeMap;

use agent_memory_core::cluster::Rules;
use agent_memory_core::cluster::nodes::NodeNumber;
use agent_memory_core::cluster::view::{Info, View};
use agent_memory_core::cluster::waiting::OWNERLESS_NS;
use agent_memory_core::guard::random::Random;

use super::client::{Client, DEADLINE, End, FAILOVER_WAIT, Step, To};
use super::servers::{Move, NODE_TIMEOUT, SERVERS, SHARDS, SLOTS, World};
use super::{MS, S, Time};

const FAULTS_UNTIL: Time = 16 * S;
const CALLS_UNTIL: Time = 34 * S;
/// From then on everything has settled.
const SETTLED: Time = 30 * S;
const ENDS: Time = CALLS_UNTIL + DEADLINE + 2 * S;
const CLIENTS: usize = 2;
/// Suspicion, election, and 0.6 s.
const LONGEST_FAILOVER: Time = NODE_TIMEOUT + 500 * MS + 600 * MS;
const SOCKET_TIMEOUT: Time = 500 * MS;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scenario {
    Failovers,
    /// The same, but no calls begin while a server is away.
    Lull,
    Moves,
    CutOff,
    Islands,
    Remade,
    Loop,
    /// Slots lose their owner, for a moment or for long.
    Unassigned,
    Everything,
}

/// One attempt of a call.
#[derive(Clone, Copy)]
struct Sent {
    client: usize,
    id: u64,
    attempt: u32,
    node: NodeNumber,
    server: usize,
}

/// One question for the topology.
#[derive(Clone, Copy)]
pub(crate) struct Question {
    pub(crate) client: usize,
    pub(crate) round: u64,
    pub(crate) node: NodeNumber,
    pub(crate) server: usize,
    pub(crate) asked: Time,
    pub(crate) full: bool,
}

enum Event {
    Call { client: usize },
    Step { client: usize, id: u64 },
    Arrive { sent: Sent, asking: bool },
    Reply { sent: Sent, reply: Result<(), String> },
    Lost { sent: Sent, was_sent: bool },
    Look { client: usize },
    Question(Question),
    Answer(Question, Box<(View, Info)>),
    NoAnswer(Question),
    Probe { client: usize, node: NodeNumber },
    Gossip { server: usize },
    Fault,
    Back { server: usize },
    Elect { primary: usize },
    MoveKey { slot: usize },
    Assign { slot: usize },
    LookAgain { client: usize, id: u64, number: u32 },
}

struct Run {
    scenario: Scenario,
    now: Time,
    events: BTreeMap<(Time, u64), Event>,
    numbers: u64,
    ids: u64,
    random: Random,
    world: World,
    clients: Vec<Client>,
    /// When each client looks at its schedule next.
    looks: [Time; CLIENTS],
    /// When which slot had no owner.
    absences: Vec<(usize, Time, Time)>,
    is_printing: bool,
}

/// How each call ended, if nothing was violated.
pub(crate) fn run(scenario: Scenario, seed: u64, rules: Rules) -> Result<Vec<(Time, End)>, String> {
    let mut run = Run {
        scenario,
        now: 0,
        events: BTreeMap::new(),
        numbers: 0,
        ids: 0,
        random: Random::new(seed),
        world: World::new(),
        clients: (0..CLIENTS as u64).map(|number| Client::new(seed * 7 + number, rules)).collect(),
        looks: [Time::MAX; CLIENTS],
        absences: Vec::new(),
        is_printing: std::env::var("CLUSTER_SEED").is_ok(),
    };
    for client in 0..CLIENTS {
        run.look(client, MS);
        run.at(50 * MS, Event::Call { client });
    }
    for server in 0..SERVERS {
        run.at(10 * MS, Event::Gossip { server });
    }
    run.at(2 * S, Event::Fault);
    if scenario == Scenario::Loop {
        run.world.loop_of = Some(4);
    }
    while let Some(((now, _), event)) = run.events.pop_first() {
        run.now = now;
        if now > ENDS {
            break;
        }
        run.happens(event);
        for client in 0..CLIENTS {
            run.effects(client);
            if let Some(violation) = run.clients[client].violation.take() {
                return Err(violation);
            }
        }
    }
    run.check()
}

impl Run {
    fn at(&mut self, delay: Time, event: Event) {
        self.numbers += 1;
        self.events.insert((self.now + delay, self.numbers), event);
    }

    fn look(&mut self, client: usize, delay: Time) {
        let due = self.now + delay;
        if due < self.looks[client] || self.looks[client] <= self.now {
            self.looks[client] = due;
            self.at(delay, Event::Look { client });
        }
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.random.next_u64() % bound as u64).expect("small")
    }

    fn between(&mut self, low: Time, high: Time) -> Time {
        low + self.random.next_u64() % (high - low)
    }

    fn print(&self, text: impl FnOnce() -> String) {
        if self.is_printing {
            println!("{:>9.4} s  {}", self.now as f64 / S as f64, text());
        }
    }

    fn is_cut(&self, client: usize, server: usize) -> bool {
        self.clients[client].cut_from == Some(server)
    }

    fn effects(&mut self, client: usize) {
        let effects = self.clients[client].core.take_effects();
        if effects.refresh_is_earlier {
            self.look(client, 0);
        }
        for node in effects.wake {
            let waiting = self.clients[client].calls.iter().filter(|(_, call)| call.waits_for == Some(node));
            for id in waiting.map(|(id, _)| *id).collect::<Vec<_>>() {
                self.clients[client].stop_waiting(id);
                self.at(0, Event::Step { client, id });
            }
        }
    }

    fn happens(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Call { client } => self.call(client),
            Event::Step { client, id } => self.step(client, id),
            Event::Arrive { sent, asking } => self.arrive(sent, asking),
            Event::Reply { sent, reply } => self.reply(sent, reply),
            Event::Lost { sent, was_sent } => self.lost(sent, was_sent),
            Event::Look { client } => self.ask(client),
            Event::Question(question) => self.question(question),
            Event::Answer(question, said) => {
                let client = &mut self.clients[question.client];
                client.heard(question, &said, now);
                let epoch = client.core.topology().epoch();
                self.print(|| format!("server {} answers: epoch {epoch}", question.server));
            }
            Event::NoAnswer(question) => {
                self.clients[question.client].core.no_answer(question.round, question.node, now);
            }
            Event::Probe { client, node } => self.probe(client, node),
            Event::Gossip { server } => {
                let mut random = Random::new(self.random.next_u64());
                self.world.gossip(server, now, &mut random);
                let pause = self.between(50 * MS, 400 * MS);
                self.at(pause, Event::Gossip { server });
            }
            Event::Fault => self.fault(),
            Event::Back { server } => self.back(server),
            Event::Elect { primary } => {
                if self.world.elect(primary, now) {
                    self.print(|| format!("a replica of {primary} took over"));
                } else if self.world.servers[primary].away_since.is_some() {
                    self.at(200 * MS, Event::Elect { primary });
                }
            }
            Event::LookAgain { client, id, number } => {
                let call = &self.clients[client].calls[&id];
                if call.waits == number && call.waits_for.is_some() {
                    self.step(client, id);
                }
            }
            Event::Assign { slot } => {
                if let Some(since) = self.world.unassigned.remove(&slot) {
                    self.absences.push((slot, since, now));
                    self.print(|| format!("slot {} has an owner again", SLOTS[slot]));
                }
            }
            Event::MoveKey { slot } => {
                let Some(moving) = self.world.moves.get_mut(&slot) else { return };
                if moving.moved == 3 {
                    return self.world.finish_move(slot);
                }
                moving.moved = moving.moved * 2 + 1;
                let pause = self.between(5 * MS, 150 * MS);
                self.at(pause, Event::MoveKey { slot });
            }
        }
    }

    fn call(&mut self, client: usize) {
        let is_away = |since: Time| self.now > since + 100 * MS;
        if self.scenario == Scenario::Lull
            && self.world.servers.iter().any(|server| server.away_since.is_some_and(is_away))
        {
            return self.at(50 * MS, Event::Call { client });
        }
        self.ids += 1;
        let (id, slot, keys) = (self.ids, self.below(SLOTS.len()), 1 + u8::try_from(self.below(3)).expect("small"));
        self.clients[client].call(id, slot, keys, self.now);
        self.at(0, Event::Step { client, id });
        if self.now < CALLS_UNTIL {
            let pause = self.between(10 * MS, 60 * MS);
            self.at(pause, Event::Call { client });
        }
    }

    fn arrive(&mut self, sent: Sent, asking: bool) {
        let now = self.now;
        if !self.world.servers[sent.server].is_up {
            return self.at(0, Event::Lost { sent, was_sent: true });
        }
        let stalled_until = self.world.servers[sent.server].stalled_until;
        if stalled_until > now {
            // The bytes stand in its socket until it goes on.
            return self.at(stalled_until - now, Event::Arrive { sent, asking });
        }
        let call = &self.clients[sent.client].calls[&sent.id];
        let slot = SLOTS[call.slot];
        let reply = self.world.serve(sent.server, sent.id, call.slot, call.keys, asking, now);
        self.print(|| format!("server {}: call {} of slot {slot} → {reply:?}", sent.server, sent.id));
        let delay = self.between(MS / 10, 2 * MS);
        self.at(delay, Event::Reply { sent, reply });
    }

    fn reply(&mut self, sent: Sent, reply: Result<(), String>) {
        let Sent { client, id, node, server, .. } = sent;
        let now = self.now;
        if self.is_late(sent) || self.is_cut(client, server) || !self.world.servers[server].is_up {
            return;
        }
        self.clients[client].calls.get_mut(&id).expect("known").attempt += 1;
        self.clients[client].succeeded(node, server);
        match reply {
            Ok(()) => self.clients[client].end(id, End::Executed, now),
            Err(text) => {
                if let Some(pause) = self.clients[client].refused(id, node, &text, now) {
                    self.at(pause, Event::Step { client, id });
                }
            }
        }
    }

    fn lost(&mut self, sent: Sent, was_sent: bool) {
        let Sent { client, id, node, server, .. } = sent;
        if self.is_late(sent) {
            return;
        }
        self.print(|| format!("client {client}: call {id} lost at server {server}, sent: {was_sent}"));
        if self.clients[client].failed(node, server, self.now) {
            self.at(300 * MS, Event::Probe { client, node });
        }
        let call = self.clients[client].calls.get_mut(&id).expect("known");
        call.attempt += 1;
        if was_sent {
            return self.clients[client].end(id, End::Unknown, self.now);
        }
        call.to = To::Route;
        self.at(20 * MS, Event::Step { client, id });
    }

    fn is_late(&self, sent: Sent) -> bool {
        let call = &self.clients[sent.client].calls[&sent.id];
        call.attempt != sent.attempt || call.end.is_some()
    }

    fn ask(&mut self, client: usize) {
        if self.looks[client] != self.now {
            return;
        }
        match self.clients[client].questions(self.now) {
            Err(delay) => self.look(client, delay),
            Ok((round, nodes, full)) => {
                for node in nodes {
                    let server = self.clients[client].server_of(node).expect("known");
                    let delay = self.between(MS / 10, 2 * MS);
                    let question = Question { client, round, node, server, asked: self.now, full };
                    self.at(delay, Event::Question(question));
                }
                self.look(client, S);
            }
        }
    }

    fn question(&mut self, question: Question) {
        let Question { client, server, .. } = question;
        if self.is_cut(client, server) || !self.world.is_answering(server, self.now) {
            let delay = if self.world.servers[server].is_up { S } else { MS };
            return self.at(delay, Event::NoAnswer(question));
        }
        let said = Box::new(self.world.view(server, self.now));
        let delay = self.between(MS / 10, 80 * MS);
        self.at(delay, Event::Answer(question, said));
    }

    fn probe(&mut self, client: usize, node: NodeNumber) {
        let Some(server) = self.clients[client].server_of(node) else { return };
        if self.world.is_answering(server, self.now) && !self.is_cut(client, server) {
            self.clients[client].succeeded(node, server);
        } else if self.clients[client].open.contains_key(&node) {
            self.at(300 * MS, Event::Probe { client, node });
        }
    }

    fn step(&mut self, client: usize, id: u64) {
        match self.clients[client].step(id, self.now) {
            Step::Over => {}
            Step::Wait(pause) => {
                let left = self.clients[client].calls[&id].began + DEADLINE - self.now;
                self.at(left, Event::Step { client, id });
                if let Some(pause) = pause.filter(|pause| *pause < left) {
                    let number = self.clients[client].calls[&id].waits;
                    self.at(pause, Event::LookAgain { client, id, number });
                }
            }
            Step::Pause(pause) => self.at(pause, Event::Step { client, id }),
            Step::Send { node, server, asking } => {
                let attempt = self.clients[client].calls[&id].attempt;
                let sent = Sent { client, id, attempt, node, server };
                let delay = self.between(MS / 10, 2 * MS);
                if self.is_cut(client, server) {
                    let was_sent = self.clients[client].connected[server];
                    return self.at(SOCKET_TIMEOUT, Event::Lost { sent, was_sent });
                }
                if !self.world.servers[server].is_up {
                    return self.at(delay, Event::Lost { sent, was_sent: false });
                }
                self.at(delay, Event::Arrive { sent, asking });
                self.at(SOCKET_TIMEOUT, Event::Lost { sent, was_sent: true });
            }
        }
    }

    fn fault(&mut self) {
        let now = self.now;
        if now > FAULTS_UNTIL {
            return;
        }
        let kind = match self.scenario {
            Scenario::Everything => {
                [Scenario::Failovers, Scenario::Moves, Scenario::CutOff, Scenario::Islands][self.below(4)]
            }
            other => other,
        };
        let mut next = self.between(5 * S, 7 * S);
        let is_quiet = self.world.servers.iter().all(|server| server.away_since.is_none());
        match kind {
            Scenario::Failovers | Scenario::Lull | Scenario::Islands if is_quiet => {
                let primaries: Vec<_> =
                    (0..SERVERS).filter(|server| self.world.servers[*server].primary.is_none()).collect();
                let server = primaries[self.below(primaries.len())];
                self.world.moves.retain(|_, moving| moving.from != server && moving.to != server);
                self.world.servers[server].away_since = Some(now);
                let length = self.between(3 * S, 5 * S);
                if kind == Scenario::Islands {
                    self.world.servers[server].island = 1;
                } else if self.below(2) == 0 {
                    self.world.servers[server].is_up = false;
                } else {
                    self.world.servers[server].stalled_until = now + length;
                }
                self.print(|| format!("server {server} is away ({kind:?})"));
                self.at(length, Event::Back { server });
                self.at(NODE_TIMEOUT + 300 * MS, Event::Elect { primary: server });
            }
            Scenario::Moves => {
                let slot = self.below(SLOTS.len());
                let from = self.world.servers[0].claims[slot].owner;
                let to = self.below(SERVERS);
                let can = |server: usize| {
                    self.world.servers[server].primary.is_none() && self.world.servers[server].away_since.is_none()
                };
                if from != to
                    && can(from)
                    && can(to)
                    && self.world.servers[from].claims[slot].owner == from
                    && !self.world.moves.contains_key(&slot)
                {
                    self.print(|| format!("slot {} moves from {from} to {to}", SLOTS[slot]));
                    self.world.moves.insert(slot, Move { from, to, moved: 0 });
                    self.at(50 * MS, Event::MoveKey { slot });
                }
                next = self.between(100 * MS, 500 * MS);
            }
            Scenario::CutOff => {
                let (client, server) = (self.below(CLIENTS), self.below(SHARDS));
                self.clients[client].cut_from = Some(server);
                self.print(|| format!("client {client} is cut off from server {server}"));
                next = 9 * S;
                self.at(9 * S - MS, Event::Back { server });
            }
            Scenario::Unassigned => {
                let slot = self.below(SLOTS.len());
                let is_long = self.below(3) == 0;
                let length = if is_long { self.between(5 * S, 9 * S) } else { self.between(200 * MS, 1_500 * MS) };
                // Two absences in a row would be one for a client that did not look in between.
                let is_recent = |(other, _, until): &(usize, Time, Time)| *other == slot && now < *until + S;
                if !self.world.unassigned.contains_key(&slot) && !self.absences.iter().any(is_recent) {
                    self.world.unassigned.insert(slot, now);
                    self.print(|| format!("slot {} has no owner for {} ms", SLOTS[slot], length / MS));
                    self.at(length, Event::Assign { slot });
                }
                next = self.between(500 * MS, 2 * S);
            }
            Scenario::Remade if now < 3 * S => {
                self.world.remake();
                self.clients.iter_mut().for_each(|client| client.may_go_back = true);
            }
            _ => {}
        }
        self.at(next, Event::Fault);
    }

    fn back(&mut self, server: usize) {
        let known = &mut self.world.servers[server];
        (known.is_up, known.island, known.away_since) = (true, 0, None);
        for client in &mut self.clients {
            if client.cut_from == Some(server) {
                client.cut_from = None;
            }
        }
        self.print(|| format!("server {server} is back"));
    }

    fn check(self) -> Result<Vec<(Time, End)>, String> {
        let mut ends = Vec::new();
        for client in &self.clients {
            for (id, call) in &client.calls {
                let (ended, end) = call.end.ok_or_else(|| format!("call {id} never ended"))?;
                let executed = self.world.executed.get(id).map_or(0, Vec::len);
                match (end, executed) {
                    (End::Executed, 1) | (End::Unknown, 0 | 1) | (End::Failed(_), 0) => {}
                    _ => return Err(format!("call {id} ended as {end:?}, and was executed {executed} times")),
                }
                let took = ended - call.began;
                if took > DEADLINE + SOCKET_TIMEOUT {
                    return Err(format!("call {id} took {} ms", took / MS));
                }
                self.check_end(*id, client, end, took)?;
                ends.push((ended, end));
            }
            client.settle(&self.world)?;
            let epoch = client.core.topology().epoch();
            if self.scenario == Scenario::Remade && epoch > 2 {
                return Err(format!("the cluster is not recognised: epoch {epoch}"));
            }
        }
        Ok(ends)
    }

    /// Whether the slot had no owner for so long that a call may be rejected at `ended`.
    fn was_long_without_owner(&self, slot: usize, ended: Time) -> bool {
        let is_long = |(other, since, until): &(usize, Time, Time)| {
            *other == slot && *since + OWNERLESS_NS <= ended && *until + 700 * MS >= ended
        };
        self.absences.iter().any(is_long)
    }

    fn check_end(&self, id: u64, client: &Client, end: End, took: Time) -> Result<(), String> {
        let call = &client.calls[&id];
        let is_looping = self.scenario == Scenario::Loop && Some(call.slot) == self.world.loop_of;
        if call.began > SETTLED && end != End::Executed && !is_looping {
            return Err(format!("call {id} ended as {end:?} although nothing is wrong any more"));
        }
        match (self.scenario, end) {
            (Scenario::Failovers | Scenario::Lull, End::Executed) if took > LONGEST_FAILOVER => {
                Err(format!("call {id} took {} ms, longer than a failover", took / MS))
            }
            (Scenario::Failovers | Scenario::Lull, End::Failed(why)) if why != "full" => {
                Err(format!("call {id} failed during a failover: {why}"))
            }
            (Scenario::Moves, End::Unknown | End::Failed(_)) => {
                Err(format!("call {id} ended as {end:?} while slots moved"))
            }
            (Scenario::Moves, End::Executed) if took > S => {
                Err(format!("call {id} took {} ms while slots moved", took / MS))
            }
            (Scenario::Unassigned, End::Unknown) => Err(format!("call {id} is unknown though nothing was lost")),
            (Scenario::Unassigned, End::Failed("the deadline" | "redirects")) => {
                Err(format!("call {id} waited {} ms for an owner", took / MS))
            }
            (Scenario::Unassigned, End::Failed(_)) if !self.was_long_without_owner(call.slot, call.began + took) => {
                Err(format!("call {id} failed although its slot had an owner again soon"))
            }
            (Scenario::CutOff, End::Failed("the deadline")) => Err(format!("call {id} was not rejected in time")),
            (Scenario::CutOff, _) if took > FAILOVER_WAIT + 2 * S => {
                Err(format!("call {id} was not rejected in time: {} ms", took / MS))
            }
            _ => Ok(()),
        }
    }
}
