/** A process for the tests of locks and ports: does what its arguments say. */
import { readFileSync, writeFileSync } from "node:fs";
import { withLock } from "../../src/repository/lock.ts";
import { reservePort } from "../../src/repository/ports.ts";

const [what, path = "", argument = ""] = process.argv.slice(2);
if (what === "count") {
  // Reads, waits, writes: without exclusion, increments get lost.
  for (let i = 0; i < Number(argument); i++) {
    await withLock(path, "the counter", async () => {
      const value = Number(readFileSync(`${path}.counter`, "utf8"));
      await new Promise((resolve) => setImmediate(resolve));
      writeFileSync(`${path}.counter`, String(value + 1));
    });
  }
} else if (what === "hold") {
  await withLock(path, "it", async () => {
    process.stdout.write("held\n");
    await new Promise((resolve) => setTimeout(resolve, 3_600_000));
  });
} else if (what === "port") {
  const owner = argument === "" ? undefined : argument;
  const { port } = await reservePort({ first: Number(path), owner });
  process.stdout.write(`${port}\n`);
  // Keeps the reservation until the test ends it.
  await new Promise((resolve) => process.stdin.on("end", resolve).resume());
}
