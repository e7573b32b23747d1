//! Names for containers whose users gave none: an adjective and an animal.

use pouch_types::ContainerName;

const ADJECTIVES: [&str; 48] = [
    "agile", "amber", "ample", "brave", "brisk", "calm", "clever", "cosy", "crisp", "daring",
    "deft", "eager", "early", "fair", "fleet", "fond", "gentle", "glad", "golden", "grand",
    "happy", "hardy", "honest", "jolly", "keen", "kind", "lively", "lucid", "lucky", "merry",
    "mild", "nimble", "noble", "patient", "plucky", "proud", "quick", "quiet", "rapid", "ready",
    "robust", "serene", "sharp", "steady", "sunny", "swift", "tidy", "witty",
];

const ANIMALS: [&str; 48] = [
    "badger",
    "bandicoot",
    "beaver",
    "bilby",
    "bison",
    "condor",
    "crane",
    "cuscus",
    "dolphin",
    "dunnart",
    "egret",
    "falcon",
    "ferret",
    "finch",
    "gecko",
    "glider",
    "heron",
    "ibex",
    "jackdaw",
    "kangaroo",
    "koala",
    "kowari",
    "lemur",
    "lynx",
    "marmot",
    "marten",
    "mulgara",
    "numbat",
    "opossum",
    "otter",
    "owl",
    "pademelon",
    "panda",
    "pelican",
    "plover",
    "possum",
    "potoroo",
    "quokka",
    "quoll",
    "raven",
    "robin",
    "seal",
    "shrew",
    "stork",
    "swallow",
    "wallaby",
    "wombat",
    "woylie",
];

/// A name; from the third attempt on with a number, so that it is found soon.
///
/// # Errors
/// When the kernel has no random bytes.
pub(crate) fn random(attempt: u32) -> Result<ContainerName, getrandom::Error> {
    let mut bytes = [0u8; 4];
    getrandom::fill(&mut bytes)?;
    let pick = |list: &[&'static str; 48], byte: u8| list[usize::from(byte) % list.len()];
    let mut name = format!("{}_{}", pick(&ADJECTIVES, bytes[0]), pick(&ANIMALS, bytes[1]));
    if attempt >= 2 {
        name.push_str(&u16::from_be_bytes([bytes[2], bytes[3]]).to_string());
    }
    // Made of letters, an underscore and digits only; the rule allows all of them.
    name.parse().map_err(|_| getrandom::Error::UNEXPECTED)
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_valid() {
        for attempt in 0..200 {
            super::random(attempt % 4).unwrap();
        }
    }
}
