//! Signals: the contract has numbers of its own.

use pouch_cri_grpc as cri;
use pouch_types::Signal;
use tonic::Status;

use crate::error::invalid;

const PREFIX: &str = "SIGNAL_";

/// `None` leaves it to the image.
pub(crate) fn parse(number: i32) -> Result<Option<Signal>, Status> {
    let wrong = || invalid("stop_signal", format!("{number} is no signal"));
    let signal = cri::Signal::try_from(number).map_err(|_| wrong())?;
    if signal == cri::Signal::RuntimeDefault {
        return Ok(None);
    }
    let name = signal.as_str_name().strip_prefix(PREFIX).unwrap_or_default();
    let name = match name {
        // Old names of others.
        "SIGCLD" => "SIGCHLD".to_owned(),
        "SIGIOT" => "SIGABRT".to_owned(),
        "SIGPOLL" => "SIGIO".to_owned(),
        name => name.replace("MINPLUS", "MIN+").replace("MAXMINUS", "MAX-"),
    };
    name.parse().map(Some).map_err(|_| wrong())
}

/// The contract's number of a signal.
pub(crate) fn render(signal: Signal) -> cri::Signal {
    let all = (1..=65).filter_map(|number| cri::Signal::try_from(number).ok());
    let mut same = all.filter(|known| parse((*known).into()).ok().flatten() == Some(signal));
    same.next().unwrap_or(cri::Signal::RuntimeDefault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_of_the_contract_is_one_of_the_kernels() {
        for number in 1..=65 {
            let signal = parse(number).unwrap().unwrap();
            let back = parse(render(signal).into()).unwrap().unwrap();
            assert_eq!(back, signal, "{number}");
        }
        assert_eq!(parse(0).unwrap(), None);
        assert!(parse(66).is_err() && parse(-1).is_err());
    }

    #[test]
    fn numbers_are_not_the_kernels() {
        assert_eq!(parse(cri::Signal::Sigterm.into()).unwrap(), Some(Signal::TERM));
        assert_eq!(parse(36).unwrap().unwrap().to_string(), "SIGRTMIN+1");
        assert_eq!(render(Signal::KILL), cri::Signal::Sigkill);
    }
}
