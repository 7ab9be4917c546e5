//! What happens unasked: sandboxes end, interfaces go, the host's network changes.

use std::sync::atomic::Ordering;

use super::LivePlane;
use crate::cluster::Command;
use crate::config::way;
use crate::control::plane::{PlaneError, PlaneEvent};
use crate::host::broker_proto::Event;
use crate::host::sockets::HostView;

impl LivePlane {
    /// The next thing that control is to know of; what only the workers are, is told to them.
    pub(super) fn look(&mut self) -> Option<PlaneEvent> {
        if let Some(event) = self.told.pop_front() {
            return Some(event);
        }
        while let Some(port) = self.lost.next() {
            // One that control has taken off meanwhile is no news.
            if let Some(id) = self.at_port(port) {
                self.told.push_back(PlaneEvent::LinkLost(id));
            }
        }
        while let Some((segment, mac)) = self.lost.next_flap() {
            if let Some(&(network, _)) = self.segments().get(&segment.0) {
                let mac = mac.to_string();
                self.told.push_back(PlaneEvent::LoopDamped { network, mac });
            }
        }
        while let Some(event) = self.broker.next_event() {
            self.take(event);
        }
        self.hear_cluster();
        self.take_found();
        self.restock();
        let changed = self.watch.as_mut().map(|w| w.update().unwrap_or(false));
        if changed == Some(true) {
            self.look_at_host();
        }
        if let Some(worker) = self.hands.iter().position(|h| {
            let thread = h.thread.as_ref();
            thread.is_some_and(std::thread::JoinHandle::is_finished)
        }) {
            self.told
                .push_back(PlaneEvent::Ended(format!("worker {worker} has ended")));
        }
        self.told.pop_front()
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::SandboxEnded(sandbox) => {
                let ends = self.ends.iter_mut();
                for (&id, end) in ends.filter(|(_, e)| e.sandbox == sandbox) {
                    end.gone = true;
                    self.told.push_back(PlaneEvent::SandboxGone(id));
                }
            }
            Event::Resolvers(_) if self.at_home => {}
            Event::Resolvers(found) => {
                self.view.rcu(|old| HostView {
                    resolvers: found.servers.clone(),
                    ..HostView::clone(old)
                });
            }
            Event::Lost(why) => self.told.push_back(PlaneEvent::Ended(why)),
            // Of the one sandbox of `run`, which there is none of.
            Event::Exited(_) | Event::Ended => {}
        }
    }

    /// Takes over what the kernel says of the host's addresses and routes.
    pub(super) fn look_at_host(&mut self) {
        let Some(watch) = &self.watch else { return };
        self.view.rcu(|old| old.following(watch.state()));
        for hand in &self.hands {
            hand.signals.changed.store(true, Ordering::Release);
            let _ = hand.signals.waker.wake();
        }
        if let Some(cluster) = &self.cluster {
            cluster.tell(Command::HostChanged {
                link_mtu: way::underlay(&[]).mtu,
            });
        }
    }

    /// Ends the workers. Errors: what one failed with.
    pub(super) fn stop(&mut self) -> Result<(), PlaneError> {
        // First of all: it asks workers, and would wait for those that have ended.
        self.cluster = None;
        let mut result = Ok(());
        for hand in &mut self.hands {
            hand.signals.stop.store(true, Ordering::Release);
            let _ = hand.signals.waker.wake();
            let why = match hand.thread.take().map(std::thread::JoinHandle::join) {
                None | Some(Ok(Ok(()))) => continue,
                Some(Ok(Err(e))) => e.to_string(),
                Some(Err(_)) => "a worker panicked; this is a bug of weft".to_owned(),
            };
            result = Err(PlaneError::Ended(why));
        }
        self.hands.clear();
        result
    }
}

impl Drop for LivePlane {
    fn drop(&mut self) {
        if let Err(e) = self.stop() {
            tracing::warn!("ending: {e}");
        }
    }
}
