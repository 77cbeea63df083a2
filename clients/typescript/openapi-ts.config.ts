import { defineConfig } from "@hey-api/openapi-ts";

// Types only: what they describe is checked by the compiler, and no generated code runs.
export default defineConfig({
  input: "./openapi.json",
  output: { path: process.env.VISIONDYNO_GENERATED ?? "./src/generated" },
  plugins: ["@hey-api/typescript"],
});
