/** Run by the build: writes oclif.manifest.json, so that starting the command line need not load every command. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { Plugin } from "@oclif/core/config";
import { settings } from "@oclif/core/settings";
import { packageJson } from "./main.ts";

const root = join(import.meta.dirname, "..", "..", "..");
settings.enableAutoTranspile = false;
const plugin = new Plugin({
  root,
  pjson: packageJson(root),
  isRoot: true,
  ignoreManifest: true,
  errorOnManifestCreate: true,
});
await plugin.load();
writeFileSync(join(root, "oclif.manifest.json"), `${JSON.stringify(plugin.manifest, undefined, 2)}\n`);
