// The package's types belong to its CommonJS entry; Node's ESM needs the module file, which has the same exports.
declare module 'wgsl_reflect/wgsl_reflect.module.js' {
  export * from 'wgsl_reflect';
}
