/** The pageserver program from its sources: `node test/pageserver/real-pageserver.ts --workdir DIR`. */
import { main } from "../../src/pageserver/program.ts";

await main(process.argv.slice(2));
