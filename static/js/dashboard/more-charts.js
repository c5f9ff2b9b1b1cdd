// The parts of Apache ECharts that few views draw, in a file of their own.
import { use } from 'echarts/core';
import { install as custom } from 'echarts/lib/chart/custom/install.js';
import { install as heatmap } from 'echarts/lib/chart/heatmap/install.js';
import { install as sankey } from 'echarts/lib/chart/sankey/install.js';
import { install as visualMap } from 'echarts/lib/component/visualMap/installVisualMapContinuous.js';

use([custom, heatmap, sankey, visualMap]);
