//! The rule that maps a uid to a range: `first = base + (uid - first uid of the band) × count`.
//!
//! Where a site says nothing there is one band, which is `first = uid × 65536`: the upper half of a subordinate id is then the
//! uid of its user, and the lower half an id inside.
//!
//! ```text
//! 0 ─────────── 65535  65536 ──────── 65535999  65536000 ─────────────────────────────── 4294836223  … 2³² − 1
//! real accounts        free                     1000's, 1001's, … 65533's range                      none
//! ```
//!
//! A site with accounts above 65533 declares bands in `/etc/berth/subid.toml`. What is declared is proven when it is read: the
//! ranges of two bands, and ranges and accounts, never meet. A rule that cannot be proven is refused, and there is none then: a
//! guess would give away somebody's files.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use berth_container::subid::Range;
use serde::{Deserialize, Serialize};

/// Where a site declares its bands.
pub const SITE_FILE: &str = "/etc/berth/subid.toml";
/// Ids of a range where nothing else is said: as many as images are made for.
pub const COUNT: u32 = 65_536;
/// The first uid that is a person's.
pub const FIRST_PERSON: u32 = 1000;
/// Ids up to this are accounts of the system and of people, whatever a site declares.
const LAST_ACCOUNT: u32 = 65_535;
/// The last id that may be in a range: 2³² − 1 is no id, and 2³² − 2 is `nobody` to some.
const LAST_ID: u64 = u32::MAX as u64 - 2;
/// A site file is no larger.
const MAX_FILE: u64 = 1 << 20;

/// Ids from `first` to `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span {
    /// First id.
    pub first: u32,
    /// Last id, not below the first.
    pub last: u32,
}

impl Span {
    fn meets(self, other: Span) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl From<Span> for String {
    fn from(span: Span) -> String {
        span.to_string()
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Span, String> {
        let (first, last) = text.split_once('-').unwrap_or((&text, &text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Span { first, last }),
            _ => Err(format!("\"{text}\" is no range of ids; write for example \"100000-129999\"")),
        }
    }
}

/// Uids and where their ranges lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Band {
    /// The uids.
    pub uids: Span,
    /// First id of the first uid's range.
    pub base: u32,
    /// Ids of each range.
    pub count: u32,
}

impl Band {
    /// All ids of the band's ranges, which may be more than there are.
    fn last_id(&self) -> u64 {
        let users = u64::from(self.uids.last - self.uids.first) + 1;
        u64::from(self.base) + users * u64::from(self.count) - 1
    }

    fn range(&self, uid: u32) -> Range {
        Range { first: self.base + (uid - self.uids.first) * self.count, count: self.count }
    }
}

impl fmt::Display for Band {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the band of the uids {} (ids {}-{})", self.uids, self.base, self.last_id())
    }
}

/// Why a declaration is no rule.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // Each variant is its message.
pub enum RuleError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} may be written by others than root", path.display())]
    Writable { path: PathBuf },
    #[error("cannot understand the declaration of bands: {0}")]
    Syntax(String),
    #[error("no bands are declared")]
    Empty,
    #[error("{0} is empty: its count is 0")]
    NoCount(Band),
    #[error(
        "{band} does not fit: it ends at {}, and the last usable id is {LAST_ID}; {} of its {} uids fit with {} ids each",
        band.last_id(), fits(band), u64::from(band.uids.last - band.uids.first) + 1, band.count
    )]
    TooLarge { band: Band },
    #[error("{band} begins among the ids 0-{LAST_ACCOUNT}, which are accounts")]
    AmongAccounts { band: Band },
    #[error("two bands have the uid {uid}: {one} and {two}")]
    SameUids { uid: u32, one: Band, two: Band },
    #[error("ranges would overlap: {one} and {two}")]
    Overlap { one: Band, two: Band },
    #[error("{band} would give away accounts: the uids {uids} are declared as users")]
    MeetsUids { band: Band, uids: Span },
    #[error("{band} would give away the reserved ids {reserved}")]
    MeetsReserved { band: Band, reserved: Span },
}

fn fits(band: &Band) -> u64 {
    (LAST_ID + 1).saturating_sub(u64::from(band.base)) / u64::from(band.count.max(1))
}

/// Why a uid has no range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // Each variant is its message.
pub enum Refused {
    #[error("uid {0} is no person's")]
    NotAPerson(u32),
    #[error("uid {uid} is in no declared band (there are {bands})")]
    NoBand { uid: u32, bands: String },
}

/// Maps uids to ranges. See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// In the order of their uids.
    bands: Vec<Band>,
    reserved: Vec<Span>,
}

impl Default for Rule {
    fn default() -> Rule {
        let uids = Span { first: FIRST_PERSON, last: 65_533 };
        Rule { bands: vec![Band { uids, base: FIRST_PERSON * COUNT, count: COUNT }], reserved: Vec::new() }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct SiteFile {
    #[serde(default = "count")]
    count: u32,
    #[serde(default)]
    reserved: Vec<Span>,
    #[serde(default)]
    bands: Vec<SiteBand>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct SiteBand {
    uids: Span,
    base: u32,
    count: Option<u32>,
}

fn count() -> u32 {
    COUNT
}

impl Rule {
    /// The site's rule: that of [`SITE_FILE`], or the built-in one where there is no such file.
    ///
    /// # Errors
    /// The file is there and no rule.
    pub fn load() -> Result<Rule, RuleError> {
        Rule::load_from(Path::new(SITE_FILE))
    }

    /// Likewise from another place.
    ///
    /// # Errors
    /// The file is there and no rule, or somebody other than its owner could change it.
    pub fn load_from(path: &Path) -> Result<Rule, RuleError> {
        let failed = |source| RuleError::Read { path: path.to_owned(), source };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Rule::default()),
            Err(error) => return Err(failed(error)),
        };
        let metadata = file.metadata().map_err(failed)?;
        // Whoever writes the rule gives away other people's ids; newuidmap, which asks for it, runs as root.
        let by_root = rustix::process::geteuid().is_root();
        if metadata.mode() & 0o022 != 0 || (by_root && metadata.uid() != 0) {
            return Err(RuleError::Writable { path: path.to_owned() });
        }
        let mut text = String::new();
        file.take(MAX_FILE).read_to_string(&mut text).map_err(failed)?;
        Rule::parse(&text)
    }

    /// The rule that a site file declares.
    ///
    /// # Errors
    /// Whatever makes it impossible to promise that no range meets another or an account.
    pub fn parse(text: &str) -> Result<Rule, RuleError> {
        let site: SiteFile = toml::from_str(text).map_err(|e| RuleError::Syntax(e.to_string().trim().to_owned()))?;
        let band = |band: &SiteBand| Band { uids: band.uids, base: band.base, count: band.count.unwrap_or(site.count) };
        Rule::new(site.bands.iter().map(band).collect(), site.reserved.clone())
    }

    /// A rule of these bands; `reserved` are ids that no range may have.
    ///
    /// # Errors
    /// As [`Rule::parse`].
    pub fn new(mut bands: Vec<Band>, reserved: Vec<Span>) -> Result<Rule, RuleError> {
        if bands.is_empty() {
            return Err(RuleError::Empty);
        }
        for &band in &bands {
            if band.count == 0 {
                return Err(RuleError::NoCount(band));
            }
            if band.base <= LAST_ACCOUNT {
                return Err(RuleError::AmongAccounts { band });
            }
            if band.last_id() > LAST_ID {
                return Err(RuleError::TooLarge { band });
            }
        }
        bands.sort_unstable_by_key(|band| band.uids.first);
        for pair in bands.windows(2) {
            if pair[0].uids.meets(pair[1].uids) {
                return Err(RuleError::SameUids { uid: pair[1].uids.first, one: pair[0], two: pair[1] });
            }
        }
        for (at, &band) in bands.iter().enumerate() {
            // The last id was found to be one above.
            let ids = |band: &Band| Span { first: band.base, last: band.last_id() as u32 };
            let own = ids(&band);
            if let Some(&two) = bands[at + 1..].iter().find(|other| own.meets(ids(other))) {
                return Err(RuleError::Overlap { one: band, two });
            }
            if let Some(other) = bands.iter().find(|other| own.meets(other.uids)) {
                return Err(RuleError::MeetsUids { band, uids: other.uids });
            }
            if let Some(&reserved) = reserved.iter().find(|reserved| own.meets(**reserved)) {
                return Err(RuleError::MeetsReserved { band, reserved });
            }
        }
        Ok(Rule { bands, reserved })
    }

    /// The declared bands, in the order of their uids.
    pub fn bands(&self) -> &[Band] {
        &self.bands
    }

    /// The range of a uid.
    ///
    /// # Errors
    /// The uid is no person's, or in no band.
    pub fn range(&self, uid: u32) -> Result<Range, Refused> {
        if uid == 0 || (uid == 65_534 || uid == 65_535) || u64::from(uid) > LAST_ID {
            return Err(Refused::NotAPerson(uid));
        }
        match self.band(uid) {
            Some(band) => Ok(band.range(uid)),
            None if uid < FIRST_PERSON => Err(Refused::NotAPerson(uid)),
            None => {
                let bands: Vec<_> = self.bands.iter().map(|band| band.uids.to_string()).collect();
                Err(Refused::NoBand { uid, bands: bands.join(", ") })
            }
        }
    }

    /// The band of a uid.
    pub fn band(&self, uid: u32) -> Option<&Band> {
        let at = self.bands.partition_point(|band| band.uids.last < uid);
        self.bands.get(at).filter(|band| band.uids.first <= uid)
    }

    /// Whose range an id is in, and where in it.
    pub fn owner(&self, id: u32) -> Option<(u32, u32)> {
        let band = self.bands.iter().find(|band| id >= band.base && u64::from(id) <= band.last_id())?;
        let offset = id - band.base;
        let uid = band.uids.first + offset / band.count;
        self.range(uid).ok().map(|_| (uid, offset % band.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Rule, String> {
        Rule::parse(text).map_err(|error| error.to_string())
    }

    #[test]
    fn without_a_site_file_the_upper_half_of_an_id_is_the_uid() {
        let rule = Rule::load_from(Path::new("/no/such/file")).unwrap();
        for uid in [1000, 1001, 32_767, 65_533] {
            let range = rule.range(uid).unwrap();
            assert_eq!((range.first >> 16, range.first & 0xffff, range.count), (uid, 0, 65_536));
            assert_eq!(rule.owner(range.first + 17), Some((uid, 17)));
        }
        assert_eq!(rule, Rule::new(rule.bands.clone(), Vec::new()).unwrap());
    }

    #[test]
    fn who_is_no_person_or_in_no_band_is_refused_with_the_reason() {
        let rule = Rule::default();
        let reason = |uid| rule.range(uid).unwrap_err().to_string();
        for uid in [0, 999, 65_534, 65_535, u32::MAX - 1, u32::MAX] {
            assert_eq!(reason(uid), format!("uid {uid} is no person's"));
        }
        assert_eq!(reason(70_000), "uid 70000 is in no declared band (there are 1000-65533)");
        assert_eq!([rule.owner(999), rule.owner(65_534), rule.owner(u32::MAX)], [None; 3]);
    }

    #[test]
    fn a_site_declares_bands_and_their_counts() {
        let rule = parse(
            "reserved = ['4000000000-4100000000']\n[[bands]]\nuids = '100000-109999'\nbase = 500000000\n\
             [[bands]]\nuids = '1000-1999'\nbase = 1000000\ncount = 1000\n",
        )
        .unwrap();
        assert_eq!(rule.range(1999).unwrap(), Range { first: 1_999_000, count: 1000 });
        assert_eq!(rule.range(109_999).unwrap(), Range { first: 500_000_000 + 9999 * 65_536, count: 65_536 });
        assert_eq!(rule.owner(1_999_005), Some((1999, 5)));
        assert!(rule.range(2000).is_err() && rule.range(99_999).is_err());
    }

    #[test]
    fn what_cannot_be_proven_is_refused_with_the_reason() {
        let band = |uids: &str, base: u64| format!("[[bands]]\nuids = '{uids}'\nbase = {base}\n");
        for (text, reason) in [
            (String::new(), "no bands are declared"),
            (
                band("1000-70000", 65_536_000),
                "it ends at 4587585535, and the last usable id is 4294967293; 64535 of its 69001",
            ),
            (band("1000-2000", 65_535), "begins among the ids 0-65535"),
            (band("1000-2000", 65_536) + &band("2000-3000", 1_000_000_000), "two bands have the uid 2000"),
            (band("1000-2000", 1_000_000) + &band("3000-3001", 2_000_000), "ranges would overlap"),
            (
                band("1000-2000", 65_536) + &band("100000-100001", 3_000_000_000),
                "the uids 100000-100001 are declared as users",
            ),
            (band("1000-1001", 65_536) + "count = 0", "its count is 0"),
            ("reserved = ['70000']\n".to_owned() + &band("1000-1001", 65_536), "the reserved ids 70000-70000"),
            (band("2-1", 65_536), "is no range of ids"),
            (band("1000-1001", 65_536) + "cuont = 3", "unknown field"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn a_site_file_that_others_may_write_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "[[bands]]\nuids = '1000-1001'\nbase = 65536\n").unwrap();
        assert!(Rule::load_from(file.path()).is_ok());
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o664)).unwrap();
        assert!(matches!(Rule::load_from(file.path()), Err(RuleError::Writable { .. })));
    }

    /// Any declaration, most of which are refused or nearly so.
    fn declarations() -> impl Strategy<Value = Vec<Band>> {
        let count = prop_oneof![Just(65_536u32), 1u32..70_000, Just(1u32)];
        let band = (prop_oneof![0u32..200_000, any::<u32>()], 0u32..3000, any::<u32>(), count).prop_map(
            |(first, more, base, count)| Band { uids: Span { first, last: first.saturating_add(more) }, base, count },
        );
        proptest::collection::vec(band, 1..5)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn ranges_are_disjoint_inside_32_bits_and_away_from_accounts_or_refused(
            bands in declarations(), picks in proptest::collection::vec((0usize..5, 0u32..3000), 2..12),
        ) {
            let Ok(rule) = Rule::new(bands.clone(), Vec::new()) else { return Ok(()) };
            let uids: Vec<u32> = picks.iter().map(|&(band, more)| {
                let band = bands[band % bands.len()];
                band.uids.first + more % (band.uids.last - band.uids.first + 1)
            }).collect();
            for &uid in &uids {
                let Ok(range) = rule.range(uid) else { continue };
                prop_assert!(u64::from(range.first) + u64::from(range.count) - 1 <= LAST_ID);
                prop_assert_eq!(rule.owner(range.first), Some((uid, 0)));
                prop_assert_eq!(rule.owner(crate::subid::last(range)), Some((uid, range.count - 1)));
                for &other in &uids {
                    prop_assert!(!(range.first..=crate::subid::last(range)).contains(&other), "{range:?} has the account {other}");
                    let Ok(two) = rule.range(other) else { continue };
                    prop_assert!(
                        uid == other || crate::subid::last(range) < two.first || crate::subid::last(two) < range.first,
                        "{uid}: {range:?}, {other}: {two:?}"
                    );
                }
            }
        }

        #[test]
        fn every_pair_of_the_built_in_band_is_disjoint(one in 1000u32..=65_533, two in 1000u32..=65_533) {
            let rule = Rule::default();
            let (a, b) = (rule.range(one).unwrap(), rule.range(two).unwrap());
            prop_assert!(one == two || crate::subid::last(a) < b.first || crate::subid::last(b) < a.first);
            prop_assert!(a.first > 65_535 && u64::from(crate::subid::last(a)) <= LAST_ID);
        }
    }
}
