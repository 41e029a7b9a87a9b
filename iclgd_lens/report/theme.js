"use strict";
// Before the first paint, so that a dark page never flashes white.
try {
  const wanted = localStorage.getItem("iclgd-theme");
  if (wanted === "light" || wanted === "dark") document.documentElement.dataset.theme = wanted;
} catch { /* storage is closed to this file: the system's theme it is */ }
