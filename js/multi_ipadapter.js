// The pack's front end: live widgets on its nodes. Without it, the nodes work all the same.

import { app } from "../../scripts/app.js";
import { attach as attachReferenceStrip } from "./reference_strip.js";
import { attach as attachReportViewer } from "./report_viewer.js";
import { attach as attachTrainingChart } from "./training_chart.js";

const WIDGETS = {
  MultiIPAdapter_EncodeReferences: attachReferenceStrip,
  MultiIPAdapter_Evaluate: attachReportViewer,
  MultiIPAdapter_Report: attachReportViewer,
  MultiIPAdapter_Sweep: attachReportViewer,
  MultiIPAdapter_Train: attachTrainingChart,
};

app.registerExtension({
  name: "MultiIPAdapter.Widgets",
  nodeCreated(node) {
    WIDGETS[node.comfyClass]?.(node, app);
  },
});
