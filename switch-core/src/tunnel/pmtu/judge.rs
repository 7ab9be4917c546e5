//! `[7]` What is known of a path beside its width: how long an answer takes, and how many are lost.

use core::time::Duration;

/// Until a question counts as lost whose answer nobody can tell the time of.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// More than an answer takes, it is waited at least: the other may be busy.
const LEAST_SPARE: Duration = Duration::from_millis(50);
const MOST_WAIT: Duration = Duration::from_secs(2);
/// Losses of one size that prove something where nothing else is lost. Source: RFC 8899 section 5.1.2, MAX_PROBES.
const PROOF: u32 = 3;

/// The time to the other and back: mean, and mean deviation. Source: RFC 6298 section 2.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RoundTrip(Option<(Duration, Duration)>);

impl RoundTrip {
    pub(super) fn note(&mut self, sample: Duration) {
        self.0 = Some(self.0.map_or((sample, sample / 2), |(mean, spread)| {
            let off = mean.abs_diff(sample);
            (mean * 7 / 8 + sample / 8, spread * 3 / 4 + off / 4)
        }));
    }

    /// Until a question counts as lost.
    pub(super) fn patience(self) -> Duration {
        let known = self
            .0
            .map(|(mean, spread)| mean + (spread * 4).max(LEAST_SPARE));
        known.unwrap_or(FIRST_WAIT).min(MOST_WAIT)
    }
}

/// The last 32 questions that the path could carry: the bits of those without an answer are set.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Losses(u32);

impl Losses {
    pub(super) fn note(&mut self, lost: bool) {
        self.0 = self.0 << 1 | u32::from(lost);
    }

    pub(super) fn any(self) -> bool {
        self.0 != 0
    }

    /// Losses of one size, each beside a small question that was answered, that are hardly chance.
    ///
    /// Of a share p of all lost by chance, a try that shows anything at all (either is answered) shows such a loss with
    /// p / (1 + p). The power of it that is below 1 in 10,000 is the third at p = 1/32, the 6th at 8, the 9th at
    /// 16, and the 14th at 32: close to a line.
    pub(super) fn proof(self) -> u32 {
        PROOF + self.0.count_ones().div_ceil(3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_is_lost_the_more_is_a_proof() {
        let mut losses = Losses::default();
        assert_eq!((losses.proof(), losses.any()), (PROOF, false));
        for n in 1..=32 {
            losses.note(true);
            let (chance, tries) = (f64::from(n) / 32.0, losses.proof());
            let by_chance = (chance / (1.0 + chance)).powi(tries.try_into().unwrap());
            assert!(by_chance < 2e-4, "{n} lost: {by_chance}");
        }
        for _ in 0..32 {
            losses.note(false);
        }
        assert_eq!((losses.proof(), losses.any()), (PROOF, false));
    }

    #[test]
    fn an_answer_that_varies_is_waited_for() {
        let ms = Duration::from_millis;
        let mut steady = RoundTrip::default();
        assert_eq!(steady.patience(), FIRST_WAIT);
        for _ in 0..40 {
            steady.note(ms(10));
        }
        assert!((ms(59)..=ms(60)).contains(&steady.patience()), "{steady:?}");
        let mut varies = RoundTrip::default();
        for _ in 0..20 {
            varies.note(ms(10));
            varies.note(ms(90));
        }
        assert!(varies.patience() > ms(150), "{varies:?}");
        varies.note(Duration::from_secs(9));
        assert_eq!(varies.patience(), MOST_WAIT);
    }
}
