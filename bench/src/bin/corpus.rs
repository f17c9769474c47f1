//! `corpus DIR --mib N`: text as payloads hand it back, made up: `DIR/pdb`, files of atoms as the PDB format has them, and
//! `DIR/logs`, the log of a web service; N MiB of each. Numbers are random and names few, as they are in such files.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use bench::options::Options;

/// Of one file; a mid-size protein has as much.
const PDB_BYTES: usize = 1 << 20;
const LOG_BYTES: usize = 8 << 20;

fn main() -> io::Result<()> {
    let (dir, mut options) = Options::read()?;
    let mib: usize = options.take("mib")?;
    options.finish()?;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    fill(&Path::new(&dir).join("pdb"), mib << 20, PDB_BYTES, |text, line| atom(text, line, &mut random))?;
    fill(&Path::new(&dir).join("logs"), mib << 20, LOG_BYTES, |text, line| request(text, line, &mut random))
}

/// Files of whole lines, of about `file_bytes`, `bytes` in all.
fn fill(
    dir: &Path,
    bytes: usize,
    file_bytes: usize,
    mut add_line: impl FnMut(&mut String, usize),
) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for number in 0..bytes.div_ceil(file_bytes) {
        let (mut text, mut line) = (String::with_capacity(file_bytes + 256), 0);
        while text.len() < file_bytes {
            add_line(&mut text, line);
            line += 1;
        }
        fs::write(dir.join(format!("{number:04}.txt")), text)?;
    }
    Ok(())
}

/// One ATOM record. Coordinates walk as a chain does, by an Angstrom or two from atom to atom.
fn atom(text: &mut String, line: usize, random: &mut Random) {
    const ATOMS: [&str; 8] = ["N", "CA", "C", "O", "CB", "CG", "CD", "CE"];
    const RESIDUES: [&str; 10] = ["ALA", "GLY", "LEU", "SER", "LYS", "VAL", "GLU", "ASP", "THR", "ARG"];
    let (atom, residue) = (ATOMS[line % ATOMS.len()], line / ATOMS.len());
    let name = RESIDUES[residue * 7 % RESIDUES.len()];
    let turn = residue as f64 / 3.6;
    let [x, y, z] =
        [turn.cos() * 20.0, turn.sin() * 20.0, turn].map(|place| place + random.below(3000) as f64 / 1000.0);
    // Into a String, which takes all.
    let _ = writeln!(
        text,
        "ATOM  {:>5}  {atom:<3} {name} A{:>4}    {x:>8.3}{y:>8.3}{:>8.3}  1.00{:>6.2}           {}",
        line % 100_000,
        residue % 10_000,
        z % 1000.0,
        10.0 + random.below(6000) as f64 / 100.0,
        &atom[..1],
    );
}

/// One request.
fn request(text: &mut String, line: usize, random: &mut Random) {
    const PATHS: [&str; 6] = ["/health", "/submit", "/retrieve/", "/load", "/kill/", "/retrieve_partial/"];
    const LEVELS: [&str; 8] = ["info", "info", "info", "info", "info", "info", "warn", "debug"];
    let (path, level) = (PATHS[random.below(6)], LEVELS[random.below(8)]);
    let millis = line * 13 + random.below(13);
    // Into a String, which takes all.
    let _ = writeln!(
        text,
        "2026-11-24T{:02}:{:02}:{:02}.{:03}Z {level} request from=10.0.{}.{}:{} path={path}{} status={} took_us={} bytes={}",
        millis / 3_600_000 % 24,
        millis / 60_000 % 60,
        millis / 1000 % 60,
        millis % 1000,
        random.below(4),
        random.below(256),
        32_768 + random.below(28_000),
        random.below(1 << 20),
        [200, 200, 200, 202, 404][random.below(5)],
        random.below(9000),
        random.below(100_000),
    );
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The high bits are the better ones.
        usize::try_from(self.0 >> 33).unwrap_or(0) % end
    }
}
