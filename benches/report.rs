//! Tables for people and drawings for documents.

use std::fs;
use std::io;

use testbed::process;

use crate::imports;
use crate::imports::Tool;
use crate::runtime;
use crate::starts;
use crate::steps;

/// What machine this was and what ran on it.
pub fn head() -> io::Result<String> {
    let name = rustix::system::uname();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism()?;
    let mut text = format!(
        "# berth beside its peers\n\nLinux {}, {cores} cores, load before {}. All as an ordinary user. ",
        name.release().to_string_lossy(),
        load.split(' ').next().unwrap_or("?")
    );
    for program in ["crun", "runc", "podman", "umoci", "skopeo"] {
        let version = process::run(std::process::Command::new(program).arg("--version"));
        let line = version.stdout.lines().next().unwrap_or(program).to_owned();
        text.push_str(&format!("{}; ", line.replace(" version", "")));
    }
    text.truncate(text.len() - 2);
    text.push_str(".\n");
    Ok(text)
}

fn row<'a>(rows: &'a [starts::Row], name: &str) -> Option<&'a starts::Row> {
    rows.iter().find(|row| row.name.starts_with(name))
}

/// The table of starts.
pub fn starts(rows: &[starts::Row], text: &mut String) {
    text.push_str("\n## Starting /bin/true in the five-layer image\n\n");
    text.push_str("| what | min ms | median ms | p95 ms | 64 at once s | failures | against berth | target |\n");
    text.push_str("|---|---:|---:|---:|---:|---:|---:|---|\n");
    let berth = row(rows, "berth").map_or(f64::NAN, starts::Row::median);
    for row in rows {
        let (ratio, target) = match row.name.as_str() {
            "floor (C)" => (format!("berth is {:.2}× it", berth / row.median()), "at most 1.5×"),
            name if name.starts_with("crun") => (format!("{:.1}× slower", row.median() / berth), "at least 3×"),
            name if name.starts_with("podman") => (format!("{:.0}× slower", row.median() / berth), "at least 50×"),
            _ => (String::new(), "no failures"),
        };
        let p95 = row.times.get(row.times.len() * 95 / 100).copied().unwrap_or(f64::NAN);
        text.push_str(&format!(
            "| {} | {:.2} | {:.2} | {:.2} | {:.2} | {} | {ratio} | {target} |\n",
            row.name,
            row.times.first().copied().unwrap_or(f64::NAN),
            row.median(),
            p95,
            row.at_once.get(row.at_once.len() / 2).copied().unwrap_or(f64::NAN),
            row.failures
        ));
    }
}

/// The table of OCI runtimes.
pub fn runtime(rows: &[runtime::Row], text: &mut String) {
    text.push_str("\n## As an OCI runtime: /bin/true in the bundle of `runc spec`\n\n");
    text.push_str("| as | runtime | `run` ms | against berth | target | `create` + `start` + `delete` ms | against berth | target | failures |\n");
    text.push_str("|---|---|---:|---:|---:|---:|---:|---:|---:|\n");
    for row in rows {
        let berth = rows.iter().find(|other| other.who == row.who && other.name == "berth");
        let slower = |mine: f64, berth: Option<f64>| format!("{:.1}× slower", mine / berth.unwrap_or(f64::NAN));
        let (run, life) = (runtime::median(&row.run), runtime::median(&row.life));
        let (run_ratio, life_ratio, targets) = match row.name.as_str() {
            "berth" => (String::new(), String::new(), ["", ""]),
            name => (
                slower(run, berth.map(|row| runtime::median(&row.run))),
                slower(life, berth.map(|row| runtime::median(&row.life))),
                if name == "crun" { ["3×", "2×"] } else { ["8×", ""] },
            ),
        };
        let calls: Vec<String> = row.calls.iter().map(|ms| format!("{ms:.2}")).collect();
        text.push_str(&format!(
            "| {} | {} | {run:.2} (least {:.2}) | {run_ratio} | {} | {life:.2} = {} | {life_ratio} | {} | {} |\n",
            row.who,
            row.name,
            row.run.first().copied().unwrap_or(f64::NAN),
            targets[0],
            calls.join(" + "),
            targets[1],
            row.failures
        ));
    }
}

/// The table of imports.
pub fn imports(rows: &[imports::Row], text: &mut String) {
    text.push_str("\n## Importing: registry on loopback to a tree that can be started\n\n");
    text.push_str("| image | file system | tool | median s | runs | against berth | target | peak memory MB | temporary space |\n");
    text.push_str("|---|---|---|---:|---:|---:|---|---:|---:|\n");
    for row in rows {
        let berth = rows
            .iter()
            .find(|other| other.tool == Tool::Berth && (other.image, other.place) == (row.image, row.place))
            .map_or(f64::NAN, imports::Row::median);
        let slow = row.place.contains("own disk");
        let (ratio, target) = match row.tool {
            Tool::Berth => (String::new(), "under 200 MB, under 5 %"),
            Tool::Umoci => (format!("{:.1}× slower", row.median() / berth), if slow { "1.8×" } else { "3.5×" }),
            Tool::Podman => (format!("{:.1}× slower", row.median() / berth), if slow { "2.2×" } else { "4.5×" }),
        };
        let space = row.space.map_or("not measured".to_owned(), |(most, left)| {
            format!("{:.0} MB, {:.1} %", most as f64 / 1e6, 100.0 * most as f64 / left.max(1) as f64)
        });
        text.push_str(&format!(
            "| {} | {} | {} | {:.2} | {} | {ratio} | {target} | {:.0} | {space} |\n",
            row.image,
            row.place,
            row.tool.name(),
            row.median(),
            row.walls.len(),
            row.peak as f64 / 1e6
        ));
    }
}

/// The table of Slurm's steps.
pub fn steps(rows: &[steps::Row], text: &mut String) {
    text.push_str("\n## A step of Slurm 22.05: what the container adds to plain `srun true`\n\n");
    text.push_str("| what | tasks | min ms | median ms | adds ms | of plain `srun` | target | failures |\n");
    text.push_str("|---|---:|---:|---:|---:|---:|---:|---:|\n");
    let mut plain = f64::NAN;
    for row in rows {
        let is_plain = row.name.ends_with("srun true");
        if is_plain {
            plain = row.median();
        }
        let adds = row.median() - plain;
        let target = match (row.name.starts_with("berth"), row.tasks) {
            (true, 1) => "at most 0.25",
            (true, _) => "at most 0.5",
            _ => "",
        };
        let (adds, share) = if is_plain {
            (String::new(), String::new())
        } else {
            (format!("{adds:.1}"), format!("{:.2}", adds / plain))
        };
        text.push_str(&format!(
            "| {} | {} | {:.1} | {:.1} | {adds} | {share} | {target} | {} |\n",
            row.name,
            row.tasks,
            row.times.first().copied().unwrap_or(f64::NAN),
            row.median(),
            row.failures
        ));
    }
}

/// Draws the steps.
pub fn steps_svg(rows: &[steps::Row]) -> String {
    let values: Vec<(String, f64)> =
        rows.iter().map(|row| (format!("{}, {} task(s)", row.name, row.tasks), row.median())).collect();
    bars("A step of Slurm 22.05, median, logarithmic", "ms", &values, true)
}

/// The table of jobs: Slurm's own and ours in pairs.
pub fn jobs(rows: &[steps::Row], text: &mut String) {
    text.push_str("\n## Jobs on one machine, beside real Slurm 24.11 on one node\n\n");
    text.push_str(
        "| what | min ms | median ms | as fast as Slurm's | target | failures |\n|---|---:|---:|---:|---:|---:|\n",
    );
    let targets = ["at least 8 times", "at least 3 times"];
    for (pair, target) in rows.chunks(2).zip(targets) {
        for row in pair {
            let (ratio, target) = match pair {
                [slurm, ours] if std::ptr::eq(row, ours) => {
                    (format!("{:.1} times", slurm.median() / ours.median()), target)
                }
                _ => (String::new(), ""),
            };
            text.push_str(&format!(
                "| {} | {:.1} | {:.1} | {ratio} | {target} | {} |\n",
                row.name,
                row.times.first().copied().unwrap_or(f64::NAN),
                row.median(),
                row.failures
            ));
        }
    }
}

/// Width of the drawings in pixels, and of what is left of the bars for names.
const WIDTH: f64 = 860.0;
const NAMES: f64 = 270.0;

/// Horizontal bars; `ticks` lines and a logarithmic scale where the values differ too much for a straight one.
fn bars(title: &str, unit: &str, values: &[(String, f64)], logarithmic: bool) -> String {
    let most = values.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let least = values.iter().map(|(_, value)| *value).fold(f64::INFINITY, f64::min);
    let room = WIDTH - NAMES - 110.0;
    let length = |value: f64| {
        if logarithmic {
            20.0 + (room - 20.0) * (value / least).ln() / (most / least).ln().max(0.01)
        } else {
            room * value / most
        }
    };
    let height = 60.0 + 26.0 * values.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"16\" y=\"26\" \
         font-size=\"16\" font-weight=\"bold\">{title}</text>\n"
    );
    for (at, (name, value)) in values.iter().enumerate() {
        let y = 46.0 + 26.0 * at as f64;
        let colour = if name.contains("berth") { "#2266bb" } else { "#aab4c0" };
        svg.push_str(&format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text><rect x=\"{NAMES}\" y=\"{y}\" width=\"{:.1}\" \
             height=\"19\" rx=\"2\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{}\">{value:.2} {unit}</text>\n",
            NAMES - 10.0,
            y + 14.0,
            length(*value),
            NAMES + length(*value) + 8.0,
            y + 14.0
        ));
    }
    svg.push_str("</svg>\n");
    svg
}

/// Draws the starts.
pub fn starts_svg(rows: &[starts::Row]) -> String {
    let values: Vec<(String, f64)> = rows.iter().map(|row| (row.name.clone(), row.median())).collect();
    bars("Start of /bin/true in a five-layer image, median, logarithmic", "ms", &values, true)
}

/// Draws the imports.
pub fn imports_svg(rows: &[imports::Row]) -> String {
    let values: Vec<(String, f64)> = rows
        .iter()
        .map(|row| {
            let place = row.place.split(' ').next().unwrap_or_default().replace("the", "own disk");
            (format!("{}, {place}: {}", row.image, row.tool.name()), row.median())
        })
        .collect();
    bars("Import from a registry on loopback, median", "s", &values, false)
}
