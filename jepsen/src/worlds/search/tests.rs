use super::*;

/// A walk over the corners of a board, from the lower left; some corners may be forbidden.
#[derive(Clone)]
struct Board {
    at: (u8, u8),
    size: u8,
    forbidden: Option<(u8, u8)>,
    /// The fair schedule goes up for ever from this column on.
    endless_from: u8,
    is_fair: bool,
}

impl Board {
    fn new(size: u8) -> Self {
        Self { at: (0, 0), size, forbidden: None, endless_from: u8::MAX, is_fair: false }
    }
}

impl World for Board {
    type Step = bool;
    type Parts = ();

    fn steps(&self) -> Vec<bool> {
        [self.at.0 < self.size, self.at.1 < self.size]
            .into_iter()
            .zip([true, false])
            .filter_map(|(may, step)| may.then_some(step))
            .collect()
    }

    fn take(&mut self, is_right: bool) -> Result<(), String> {
        let along = if is_right { &mut self.at.0 } else { &mut self.at.1 };
        *along = along.wrapping_add(1);
        if self.forbidden == Some(self.at) { Err("it is forbidden".into()) } else { Ok(()) }
    }

    fn key(&self) -> u64 {
        u64::from(self.at.0) << 9 | u64::from(self.at.1) << 1 | u64::from(self.is_fair)
    }

    fn tell(&self, is_right: bool) -> String {
        if is_right { "right".into() } else { "up".into() }
    }

    fn fair_step(&self) -> Option<bool> {
        if self.at.0 >= self.endless_from { Some(false) } else { (self.at.0 < self.size).then_some(true) }
    }

    fn without_faults(&self) -> Self {
        Self { is_fair: true, ..self.clone() }
    }

    fn share(&mut self, (): &mut ()) {}
}

const BOUNDS: Bounds = Bounds { states: 10_000, ends_of_one_in: 1 };

#[test]
fn every_state_is_looked_at_once() {
    let found = Search::new(Board::new(9), BOUNDS).run();
    assert!(found.is_closed && found.violation.is_none());
    assert_eq!((found.states, found.transitions, found.depth), (100, 180, 18));
    assert_eq!(found.ends_tried, 100);
}

#[test]
fn the_bound_on_states_is_kept_and_told() {
    let found = Search::new(Board::new(200), Bounds { states: 500, ..BOUNDS }).run();
    assert!(!found.is_closed && found.states >= 500 && found.states < 5_000, "{found:?}");
}

#[test]
fn a_violation_is_told_by_its_shortest_story() {
    let board = Board { forbidden: Some((2, 1)), ..Board::new(9) };
    // Without fair schedules, one of which comes there from a state that lies nearer.
    let found = Search::new(board, Bounds { ends_of_one_in: u64::MAX, ..BOUNDS }).run();
    let violation = found.violation.expect("it can be reached");
    assert_eq!(violation.what, "it is forbidden");
    let rights = violation.story.iter().filter(|step| *step == "right").count();
    assert_eq!((rights, violation.story.len()), (2, 3), "{violation:?}");
}

#[test]
fn what_never_ends_is_found() {
    let found = Search::new(Board { endless_from: 3, ..Board::new(9) }, BOUNDS).run();
    let violation = found.violation.expect("from column 3 on it never ends");
    assert!(violation.what.starts_with("I15"), "{violation:?}");
}

#[test]
fn what_breaks_on_the_way_to_its_end_is_found() {
    let forbidden = Some((9, 0));
    let found = Search::new(Board { forbidden, ..Board::new(9) }, BOUNDS).run();
    let violation = found.violation.expect("the fair schedule comes there");
    assert_eq!(violation.story.len(), 10, "{violation:?}");
}
