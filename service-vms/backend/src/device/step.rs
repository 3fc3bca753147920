//! What is next for a device.

/// `enum xenbus_state`; what is not there, or is none of these, is `Unknown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum XenbusState {
    /// Nothing is known.
    #[default]
    Unknown = 0,
    /// The toolstack has made it, or a frontend begins anew.
    Initialising = 1,
    /// The backend has said what it offers.
    InitWait = 2,
    /// The frontend has said where its rings are.
    Initialised = 3,
    /// Served.
    Connected = 4,
    /// About to end.
    Closing = 5,
    /// Ended.
    Closed = 6,
}

impl XenbusState {
    /// From a node's value.
    #[must_use]
    pub fn parse(value: &[u8]) -> Self {
        match value {
            b"1" => Self::Initialising,
            b"2" => Self::InitWait,
            b"3" => Self::Initialised,
            b"4" => Self::Connected,
            b"5" => Self::Closing,
            b"6" => Self::Closed,
            _ => Self::Unknown,
        }
    }

    /// A node's value.
    #[must_use]
    pub const fn value(self) -> &'static str {
        match self {
            Self::Unknown => "0",
            Self::Initialising => "1",
            Self::InitWait => "2",
            Self::Initialised => "3",
            Self::Connected => "4",
            Self::Closing => "5",
            Self::Closed => "6",
        }
    }
}

/// What is next for a device. After each but `Wait` and `Serve`, ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until something changes.
    Wait,
    /// Write what we offer, then `InitWait`.
    Offer,
    /// Read what the frontend wrote, map, bind and serve; then write what the frontend needs, and `Connected`.
    Connect,
    /// The same where a predecessor had it connected already: no node changes.
    Serve,
    /// Stop serving: unbind and unmap, no node changes.
    Detach,
    /// Write this state.
    Write(XenbusState),
}

/// Decides from our own state node, the frontend's, and whether we serve the device.
#[must_use]
pub const fn step(ours: XenbusState, frontend: XenbusState, serving: bool) -> Step {
    use XenbusState as X;
    match (frontend, ours, serving) {
        // It is served: as long as both sides say so, or the toolstack asked for its end and the frontend has not followed yet.
        (X::Initialised | X::Connected, X::Connected | X::Closing, true) => Step::Wait,
        (_, _, true) => Step::Detach,
        (X::Initialising, X::Unknown | X::Initialising | X::Connected | X::Closed, false) => Step::Offer,
        // The frontend may have been faster than our view of it.
        (X::Initialised | X::Connected, X::Unknown | X::Initialising, false) => Step::Offer,
        (X::Initialised | X::Connected, X::InitWait | X::Initialised, false) => Step::Connect,
        (X::Initialised | X::Connected, X::Connected, false) => Step::Serve,
        // Nobody serves it any more, and the frontend must begin anew.
        (X::Initialised | X::Connected, X::Closing, false) => Step::Write(X::Closed),
        (X::Closing, X::InitWait | X::Initialised | X::Connected, false) => Step::Write(X::Closing),
        (X::Closed, X::Closed, false) | (X::Unknown, X::Unknown | X::Initialising | X::Closed, false) => {
            Step::Wait
        }
        (X::Closed | X::Unknown, _, false) => Step::Write(X::Closed),
        _ => Step::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use XenbusState as X;

    const ALL: [X; 7] =
        [X::Unknown, X::Initialising, X::InitWait, X::Initialised, X::Connected, X::Closing, X::Closed];

    /// Our node and whether we serve, after all that is to be done for an unmoving frontend.
    fn settle(mut ours: X, frontend: X, mut serving: bool) -> (X, bool) {
        for _ in 0..6 {
            match step(ours, frontend, serving) {
                Step::Wait => return (ours, serving),
                Step::Offer => ours = X::InitWait,
                Step::Connect => (ours, serving) = (X::Connected, true),
                Step::Serve => serving = true,
                Step::Detach => serving = false,
                Step::Write(state) => ours = state,
            }
        }
        panic!("never settles: {ours:?} {frontend:?} {serving}");
    }

    #[test]
    fn values_are_those_of_xenbus() {
        for (number, state) in ALL.iter().enumerate() {
            assert_eq!(state.value(), number.to_string());
            assert_eq!(X::parse(state.value().as_bytes()), *state);
        }
        for nonsense in [&b""[..], b"44", b"-1", b"4\0", b"x", b"7"] {
            assert_eq!(X::parse(nonsense), X::Unknown);
        }
    }

    #[test]
    fn a_stock_frontend_lives() {
        let mut device = (X::Initialising, false);
        let script = [
            (X::Initialising, (X::InitWait, false)),
            (X::Initialised, (X::Connected, true)),
            (X::Connected, (X::Connected, true)),
            (X::Closing, (X::Closing, false)),
            (X::Closed, (X::Closed, false)),
            (X::Initialising, (X::InitWait, false)),
            (X::Connected, (X::Connected, true)),
        ];
        for (frontend, expected) in script {
            device = settle(device.0, frontend, device.1);
            assert_eq!(device, expected, "frontend {frontend:?}");
        }
    }

    #[test]
    fn what_a_predecessor_served_is_served_and_no_node_changes() {
        for frontend in [X::Initialised, X::Connected] {
            assert_eq!(step(X::Connected, frontend, false), Step::Serve);
            assert_eq!(settle(X::Connected, frontend, false), (X::Connected, true));
        }
    }

    #[test]
    fn the_toolstacks_wish_to_end_waits_for_the_frontend() {
        assert_eq!(settle(X::Closing, X::Connected, true), (X::Closing, true));
        assert_eq!(settle(X::Closing, X::Closed, true), (X::Closed, false));
    }

    #[test]
    fn a_frontend_that_vanished_or_began_anew_is_let_go() {
        assert_eq!(settle(X::Connected, X::Unknown, true), (X::Closed, false));
        assert_eq!(settle(X::Connected, X::Initialising, true), (X::InitWait, false));
        assert_eq!(settle(X::Unknown, X::Unknown, false), (X::Unknown, false));
    }

    #[test]
    fn a_refused_frontend_stays_refused_until_it_begins_anew() {
        for frontend in [X::Initialised, X::Connected] {
            assert_eq!(settle(X::Closed, frontend, false), (X::Closed, false));
        }
        assert_eq!(settle(X::Closed, X::Initialising, false), (X::InitWait, false));
    }

    #[test]
    fn every_state_settles_and_is_served_only_where_both_say_so() {
        for ours in ALL {
            for frontend in ALL {
                for serving in [false, true] {
                    let (node, serving) = settle(ours, frontend, serving);
                    let both = matches!(frontend, X::Initialised | X::Connected)
                        && matches!(node, X::Connected | X::Closing);
                    assert!(!serving || both, "{ours:?} {frontend:?}");
                }
            }
        }
    }
}
