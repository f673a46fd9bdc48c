/**
 * Runs benchmarks: `npm run bench` all of them, `npm run bench -- NAME` one, with the arguments behind its name if there
 * are any. Exit code 1 if one of them failed, 2 for a name that there is not.
 */
import { spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";

const DIRECTORY = join(import.meta.dirname, "..", "bench");
const SUFFIX = ".bench.ts";

const names = readdirSync(DIRECTORY)
  .filter((file) => file.endsWith(SUFFIX))
  .map((file) => file.slice(0, -SUFFIX.length))
  .sort();
const [wanted, ...args] = process.argv.slice(2);

if (wanted !== undefined && !names.includes(wanted)) {
  process.stderr.write(`error: there is no benchmark "${wanted}"\nhint: There are ${names.join(", ")}.\n`);
  process.exitCode = 2;
} else {
  const failed: string[] = [];
  for (const name of wanted === undefined ? names : [wanted]) {
    process.stdout.write(`\n# ${name}\n`);
    if (!(await succeeds(name))) failed.push(name);
  }
  if (failed.length > 0) {
    process.stderr.write(`error: failed: ${failed.join(", ")}\n`);
    process.exitCode = 1;
  }
}

function succeeds(name: string): Promise<boolean> {
  const script = join(DIRECTORY, name + SUFFIX);
  return new Promise((resolve, reject) => {
    // Some of them measure memory, and collect garbage before they do.
    const child = spawn(process.execPath, ["--expose-gc", script, ...args], { stdio: "inherit" });
    child.on("error", reject);
    child.on("exit", (code) => resolve(code === 0));
  });
}
