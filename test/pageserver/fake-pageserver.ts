/** The pageserver program with fake timelines: `node test/pageserver/fake-pageserver.ts --workdir DIR`. */
import { runPageserver } from "../../src/pageserver/main.ts";
import { systemClock, systemRandom } from "../../src/pageserver/server.ts";
import { FakeTimelines } from "./fake-timelines.ts";
import { RealFiles } from "../../src/storage/real-files.ts";

const exitCode = await runPageserver(process.argv.slice(2), (_, log) => {
  const files = new RealFiles();
  return { files, clock: systemClock, random: systemRandom, log, timelines: new FakeTimelines(files) };
});
process.exit(exitCode);
