/**
 * Plays the tour of the README, or that of the file whose path is given. Exit code 0 if everything went as it should, 1 if
 * not, 130 after Ctrl-C. Needs `npm run build`; `npm run quickstart` does both.
 */
import { readFileSync } from "node:fs";
import { constants } from "node:os";
import { dirname, join } from "node:path";
import { playTour } from "./play-tour.ts";
import { parseTour } from "./tour.ts";

try {
  const path = process.argv[2] ?? join(dirname(import.meta.dirname), "README.md");
  const steps = parseTour(readFileSync(path, "utf8"));
  const interruption = await playTour(steps);
  if (interruption === undefined) {
    const count = steps.length;
    process.stdout.write(
      `The tour is over: ${count} commands, nothing runs any more, nothing is left behind.\n`,
    );
  } else {
    process.exitCode = 128 + constants.signals[interruption];
  }
} catch (error) {
  process.stderr.write(`error: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
