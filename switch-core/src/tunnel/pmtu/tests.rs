use super::*;
use crate::testing::Random;

mod flows;

fn ms(n: u64) -> Tick {
    Tick::from_millis(n)
}

/// A path in virtual time: what it carries, how much it loses each way, and how long it takes.
struct Path {
    mtu: u16,
    loss: u8,
    rtt: Duration,
    dead: bool,
    random: Random,
    /// Answers under way.
    acks: Vec<(Tick, Probe)>,
    now: Tick,
    sent: usize,
    events: Vec<(Tick, MtuEvent)>,
}

impl Path {
    fn new(mtu: u16, loss: u8) -> Self {
        Self {
            mtu,
            loss,
            rtt: Duration::from_millis(10),
            dead: false,
            random: Random(u64::from(mtu) << 8 | u64::from(loss)),
            acks: Vec::new(),
            now: ms(1),
            sent: 0,
            events: Vec::new(),
        }
    }

    /// Lets so much time pass. Something large is sent all the time if `busy`.
    fn run(&mut self, search: &mut PathMtu, time: Duration, busy: bool) {
        let end = self.now + time;
        loop {
            if busy {
                search.sent_large(self.now);
            }
            search.handle_timeout(self.now);
            while let Some(probe) = search.poll_transmit() {
                self.sent += 1;
                assert!(message_len(probe.size, false) + 60 <= usize::from(probe.size));
                let lost = self.random.chance(self.loss) || self.random.chance(self.loss);
                if probe.size <= self.mtu && !lost && !self.dead {
                    self.acks.push((self.now + self.rtt, probe));
                }
            }
            while let Some(event) = search.poll_event() {
                self.events.push((self.now, event));
            }
            let ack = self.acks.iter().map(|a| a.0).min();
            let next = ack
                .into_iter()
                .chain([search.poll_timeout()])
                .min()
                .unwrap();
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            let (due, later) = self.acks.drain(..).partition(|a| a.0 <= self.now);
            self.acks = later;
            for (_, probe) in due {
                search.handle_ack(self.now, probe);
            }
        }
        self.now = end;
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_path_like_the_link_takes_one_answer() {
    let mut path = Path::new(1500, 0);
    let mut search = PathMtu::new(path.now, 1500);
    assert_eq!(search.mtu(), BASE);
    path.run(&mut search, Duration::from_millis(20), false);
    assert_eq!(
        (search.mtu(), search.is_settled(), path.sent),
        (1500, true, 1)
    );
    assert_eq!(path.events, [(ms(11), MtuEvent::Changed(1500))]);
}

#[test]
fn any_path_is_found() {
    for mtu in (1280..=1500).step_by(17).chain([1492, 1499]) {
        let mut path = Path::new(mtu, 0);
        let mut search = PathMtu::new(path.now, 1500);
        path.run(&mut search, SECOND * 4, false);
        assert!(search.is_settled());
        assert!(
            (mtu - 3..=mtu).contains(&search.mtu()),
            "{mtu}: {}",
            search.mtu()
        );
        // On a path that loses much it may be less, never more.
        let mut path = Path::new(mtu, 30);
        let mut search = PathMtu::new(path.now, 1500);
        path.run(&mut search, SECOND * 60, false);
        assert!(search.mtu() <= mtu);
        path.loss = 0;
        path.run(&mut search, SECOND * 1_300, false);
        assert!(
            (mtu - 3..=mtu).contains(&search.mtu()),
            "{mtu}: {}",
            search.mtu()
        );
    }
    let mut path = Path::new(8000, 0);
    let mut search = PathMtu::new(path.now, 9000);
    path.run(&mut search, SECOND * 2, false);
    assert!((7996..=8000).contains(&search.mtu()), "{}", search.mtu());
}

#[test]
fn a_path_that_is_too_small_is_named() {
    for mtu in [600, 1000, 1279] {
        let mut path = Path::new(mtu, 0);
        let mut search = PathMtu::new(path.now, 1500);
        path.run(&mut search, SECOND * 20, false);
        assert!(
            (mtu - 3..=mtu).contains(&search.mtu()),
            "{mtu}: {}",
            search.mtu()
        );
        let small = MtuEvent::TooSmall(search.mtu());
        assert_eq!(path.events.iter().filter(|e| e.1 == small).count(), 1);
    }
}

#[test]
fn a_path_that_shrinks_without_a_word_is_known_within_a_second() {
    let mut path = Path::new(1500, 0);
    let mut search = PathMtu::new(path.now, 1500);
    path.run(&mut search, SECOND, true);
    path.mtu = 1400;
    path.events.clear();
    let before = path.now;
    path.run(&mut search, SECOND, true);
    assert_eq!(path.events[0].1, MtuEvent::BlackHole(1500));
    assert!(path.events[0].0.since(before) < Duration::from_millis(600));
    assert!(search.mtu() <= 1400, "what is sent now passes");
    path.run(&mut search, SECOND * 2, true);
    assert!((1396..=1400).contains(&search.mtu()));
    // It grows again: that is found in time.
    path.mtu = 1500;
    path.run(&mut search, SECOND * 5, true);
    assert!(search.mtu() <= 1400);
    path.run(&mut search, SECOND * 10, true);
    assert_eq!(search.mtu(), 1500);
}

#[test]
fn a_path_that_widens_is_known_within_ten_minutes() {
    let mut path = Path::new(1400, 0);
    let mut search = PathMtu::new(path.now, 1500);
    path.run(&mut search, SECOND * 5, true);
    path.mtu = 1500;
    path.run(&mut search, SECOND * 590, true);
    assert!(search.mtu() <= 1400);
    path.run(&mut search, SECOND * 20, true);
    assert_eq!(search.mtu(), 1500);
}

#[test]
fn what_the_kernel_says_counts_at_once_and_is_checked() {
    let mut path = Path::new(1500, 0);
    let mut search = PathMtu::new(path.now, 1500);
    path.run(&mut search, SECOND, false);
    path.mtu = 1420;
    search.too_big(path.now, 1420);
    assert_eq!(search.mtu(), 1420);
    path.run(&mut search, SECOND, false);
    assert_eq!((search.mtu(), search.is_settled()), (1420, true));
    // A forged report: no less than every path carries, and probes tell better.
    search.too_big(path.now, 68);
    assert_eq!(search.mtu(), BASE);
    path.run(&mut search, SECOND * 620, false);
    assert!((1416..=1420).contains(&search.mtu()), "{}", search.mtu());
    // One that says more changes nothing.
    search.too_big(path.now, 9000);
    assert!(search.is_settled());
}

#[test]
fn a_report_about_a_probe_saves_the_others() {
    let mut path = Path::new(1500, 0);
    let mut search = PathMtu::new(path.now, 9000);
    path.now = ms(2);
    search.handle_timeout(path.now);
    assert_eq!(search.poll_transmit().map(|p| p.size), Some(9000));
    search.too_big(path.now, 1500);
    path.run(&mut search, SECOND * 3, false);
    assert!((1497..=1500).contains(&search.mtu()), "{}", search.mtu());
    assert!(path.sent < 60, "{}", path.sent);
}

#[test]
fn a_path_that_loses_much_has_not_shrunk() {
    let mut holes = 0;
    for seed in 0..20 {
        let mut path = Path::new(1500, 0);
        let mut search = PathMtu::new(path.now, 1500);
        path.run(&mut search, SECOND, true);
        path.loss = 30;
        path.random = Random(seed);
        path.run(&mut search, SECOND * 10, true);
        holes += path
            .events
            .iter()
            .filter(|e| matches!(e.1, MtuEvent::BlackHole(_)))
            .count();
        // And it finds back.
        path.run(&mut search, SECOND * 5, true);
        path.loss = 0;
        path.run(&mut search, SECOND * 610, true);
        assert_eq!(search.mtu(), 1500);
    }
    // Half of all probes are unanswered. Some mistakes in 200 seconds are what the speed of the answer costs.
    assert!(holes <= 12, "{holes}");
}

#[test]
fn a_dead_path_keeps_what_it_had() {
    let mut path = Path::new(1500, 0);
    let mut search = PathMtu::new(path.now, 1500);
    path.run(&mut search, SECOND, true);
    path.dead = true;
    path.sent = 0;
    path.run(&mut search, SECOND * 60, true);
    assert_eq!(search.mtu(), 1500);
    assert!(path.sent < 60 * 2 * 20, "{}", path.sent);
    path.dead = false;
    path.run(&mut search, SECOND * 5, true);
    assert_eq!((search.mtu(), path.events.len()), (1500, 1));
}

#[test]
fn a_path_that_comes_back_narrower_is_known_soon() {
    let mut path = Path::new(1500, 0);
    let mut search = PathMtu::new(path.now, 1500);
    path.run(&mut search, SECOND, true);
    path.dead = true;
    path.mtu = 1400;
    // Nobody sends much into a hole.
    path.run(&mut search, SECOND * 3, false);
    assert_eq!(search.mtu(), 1500);
    path.dead = false;
    path.run(&mut search, SECOND * 2, false);
    assert!(search.mtu() <= 1400, "{}", search.mtu());
}

#[test]
fn an_idle_path_costs_next_to_nothing() {
    let mut path = Path::new(1500, 0);
    let mut search = PathMtu::new(path.now, 1500);
    path.run(&mut search, SECOND * 3600, false);
    // Every half minute one large and one small.
    assert!(path.sent <= 1 + 2 * 120, "{}", path.sent);
    // A host that sleeps an hour goes on where it was.
    path.now = path.now + SECOND * 3600;
    path.run(&mut search, SECOND, false);
    assert_eq!(search.mtu(), 1500);
}

#[test]
fn a_new_address_begins_anew() {
    let mut path = Path::new(1500, 0);
    let mut search = PathMtu::new(path.now, 1500);
    path.run(&mut search, SECOND, false);
    path.mtu = 1300;
    search.restart(path.now, 1500);
    assert_eq!(search.mtu(), BASE);
    path.run(&mut search, SECOND * 3, false);
    assert!((1297..=1300).contains(&search.mtu()));
    search.set_max(path.now, 1290);
    path.run(&mut search, SECOND, false);
    assert_eq!(search.mtu(), 1290);
}

#[test]
fn answers_that_were_not_asked_for_change_nothing() {
    let mut search = PathMtu::new(ms(1), 1500);
    search.handle_timeout(ms(1));
    let probe = search.poll_transmit().unwrap();
    for (id, size) in [
        (probe.id.wrapping_sub(1), 1500),
        (probe.id.wrapping_add(9), 1500),
        (probe.id, 1499),
        (probe.id, 9000),
    ] {
        search.handle_ack(ms(2), Probe { id, size });
        assert_eq!(search.mtu(), BASE, "{id} {size}");
    }
    search.handle_ack(ms(2), probe);
    assert_eq!(search.mtu(), 1500);
}

#[test]
fn messages_fill_the_packet() {
    // IPv4 20, UDP 8, seal 32.
    assert_eq!(message_len(1500, false), 1440);
    assert_eq!(message_len(1500, true), 1420);
    assert_eq!(message_len(0, true), PROBE_HEADER);
}
