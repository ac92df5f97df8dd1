"use strict";
// The library of charts is unpacked and compiled beside the reading of the tables. The comment in front of it asks the
// browser to compile all of it at once, in the background, and not piece by piece when it runs.
async function loadLibrary() {
  const signs = atob(document.getElementById("library").textContent), packed = new Uint8Array(signs.length);
  for (let place = 0; place < signs.length; place += 1) packed[place] = signs.charCodeAt(place);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const text = await new Response(stream).blob();
  const script = document.createElement("script");
  script.src = URL.createObjectURL(new Blob(["//# allFunctionsCalledOnLoad\n", text], {type: "text/javascript"}));
  return new Promise((done, failed) => {
    script.onload = done;
    script.onerror = () => failed(new Error("the library did not load"));
    document.head.append(script);
  });
}

// The page counts as loaded when the library is there, so that what prints pages waits: an open document is not loaded.
const waiting = document.createElement("iframe");
waiting.hidden = true;
document.documentElement.append(waiting);
waiting.contentDocument.open();
const LIBRARY = loadLibrary().finally(() => {
  waiting.contentDocument.close();
  waiting.remove();
});
