// Settings of OHIF 3.13 for a lake: put it beside OHIF's index.html as app-config.js, with the address of the lake.
// tests/system/browser/test_ohif.py runs OHIF with this file.
const LAKE = 'http://127.0.0.1:8080/dicomweb';

window.config = {
  name: 'dicomlake',
  routerBasename: '/',
  extensions: [],
  modes: [],
  showStudyList: true,
  showWarningMessageForCrossOrigin: false,
  investigationalUseDialog: { option: 'never' },
  defaultDataSourceName: 'dicomlake',
  dataSources: [
    {
      namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
      sourceName: 'dicomlake',
      configuration: {
        friendlyName: 'dicomlake',
        name: 'dicomlake',
        qidoRoot: LAKE,
        wadoRoot: LAKE,
        imageRendering: 'wadors',
        thumbnailRendering: 'thumbnail', // made once by the lake; 'wadors' fetches a whole frame for each
        enableStudyLazyLoad: true,
        qidoSupportsIncludeField: true,
        supportsFuzzyMatching: false,
        supportsWildcard: true,
        dicomUploadEnabled: true,
        bulkDataURI: { enabled: true },
      },
    },
  ],
};
