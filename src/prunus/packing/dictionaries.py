"""Dictionaries for deflate: texts that many headers contain, so that files need not.

They are part of the format: a dictionary never changes, since files are read with the one they were written with. A
better one is added at the end, and new files use the last one. The most frequent texts come last, since nearby matches
take fewer bits. Only the size of files depends on the dictionary.
"""

from __future__ import annotations

_FIRST = """
["pad","^",[1,1,1,1]],["upsample_nearest2d.vec","^",null,[2.0,2.0]],["conv_transpose2d.input","^","@","@",[2,2]],
["gru.input","^","^2",["@","@","@","@"],true,1,0.0,"!",false,true],["getitem","^",0],["getitem","^2",1],
["lstm.input","^",["^2","^"],["@","@","@","@"],true,1,0.0,"!",false,true],["prelu","^","@"],["tanh","^"],
["instance_norm","^","@","@",null,null,true,0.1,1e-05,false],["group_norm","^",8,"@","@",1e-05,false],
["leaky_relu","^",0.01],["hardswish_","^"],["hardtanh_","^",0.0,6.0],["hardsigmoid","^"],["silu_","^"],["silu","^"],
["zeros","^",[],{"dtype":"#float32","device":"#own","pin_memory":false}],["full","^",[],{"dtype":"#int64",
["arange.start","^",0,{"dtype":"#int64","device":"#own","pin_memory":false}],
["arange","^2",{"device":"#own","pin_memory":false}],["masked_fill.Scalar","^","^2","#-inf"],["where.self",
["to.dtype_layout","^",{"dtype":"#bool","layout":"#strided","device":"#own"}],["to.dtype","^","#float32"],
["new_ones","^2",[],{"dtype":"#bool","pin_memory":false}],["ne.Scalar","^",1],["le.Tensor","^2","^"],
["eq.Tensor","^2","^"],["cumsum","^",-1],["tril","^"],["clone","^"],["__and__.Tensor","^7","^"],
["index.Tensor","^",["^2","^"]],["index_select","^",1,"@"],["cos","^"],["sin","^"],["neg","^"],["exp","^"],
["pow.Tensor_Scalar","^",3.0],["pow.Tensor_Scalar","^",2],["mean.dim","^",[-1],true],["rsqrt","^"],
["sum.dim_IntList","^",[1]],["slice.Tensor","^",0,0,9223372036854775807],["slice.Tensor","^",1,0,1],
["slice.Tensor","^2",3,16,9223372036854775807],["split.Tensor","^",32,2],["chunk","^",2,1],["unbind.int","^",2],
["stack",["^2","^"],-1],["einsum","'bqhd,bkhd->bhqk",["^2","^"]],["rms_norm","^",[32],"@",1e-06],
["unflatten.int","^",-1,[3,32]],["squeeze.dim","^",-2],["squeeze.dim","^",-1],["sub.Tensor","^","^2"],
["div.Tensor","^",2.0],["mul.Tensor","^","@"],["mul.Tensor","^",1.0],["mul.Tensor","^3","^"],
["number.add","^",1],["number.floordiv","^",8],["number.mul","^2","^"],["number.mul","^2",4],
["sym_size.int","^",0],["sym_size.int","^2",1],["sym_size.int","^3",2],
["select.int","^",1,0],["select.int","^2",0,1],["select.int","^3",0,2],
["cat",["^","^2"],-1],["cat",["^2","^"],1],["expand","^",["^2",-1,-1]],
["unsqueeze","^",0],["unsqueeze","^",1],["unsqueeze","^",-1],["gelu","^",{"approximate":"'tanh"}],["gelu","^"],
["embedding","@","^"],["add.Tensor","^","@"],["contiguous","^"],["reshape","^",["^9",-1,32]],
["permute","^",[0,2,1,3]],["transpose.int","^",-1,-2],["transpose.int","^",1,0],["matmul","^2","^"],
["softmax.int","^",-1],["linear","^","@","@"],["view","^",["^2",-1,4,8]],["transpose.int","^",1,2],
["linear","^4","@","@"],["view","^",["^5","^4",4,8]],["scaled_dot_product_attention","^5","^3","^"],
["scaled_dot_product_attention","^5","^3","^",null,0.0,false,{"scale":0.125}],["transpose.int","^",1,2],
["reshape","^",["^7",-1,32]],["linear","^","@","@"],["dropout","^",0.1,"!0.dropout1"],["add.Tensor","^9","^"],
["layer_norm","^",[32],"@","@",1e-12,false],["layer_norm","^",[32],"@","@",1e-05,false],["linear","^","@","@"],
["relu","^"],["dropout","^",0.5,"!drop"],["dropout","^",0.0,"!mlp.drop"],["linear","^","@","@"],
["mean.dim","^",[2,3]],["mean.dim","^",[-1,-2],true],["sigmoid","^"],["mul.Tensor","^5","^"],
["avg_pool2d","^",[2,2],[2,2]],["max_pool2d","^",[3,3],[2,2],[1,1]],["adaptive_avg_pool2d","^",[1,1]],
["conv1d","^","@","@"],["conv3d","^","@","@"],["conv2d","^","@","@",[2,2],[1,1]],
["conv2d","^","@2",null,[1,1],[0,0],[1,1],32],["hardtanh","^",0.0,6.0],["relu_","^"],
["conv2d","^","@2",null,[2,2],[1,1]],["batch_norm","^","@","@","@","@","!",0.1,1e-05,false],
["conv2d","^","@2",null,[1,1],[1,1]],["batch_norm","^","@","@","@","@","!",0.1,1e-05,false],
["add.Tensor","^","^6"],["add_.Tensor","^","^6"],["relu","^"],["conv2d","^","@2",null,[1,1],[1,1]],
["batch_norm","^","@","@","@","@","!",0.1,1e-05,false],["relu","^"],
["conv2d","^","@","@"],["relu","^"],["max_pool2d","^",[2,2]],["conv2d","^","@","@"],["relu","^"],
["max_pool2d","^",[2,2]],["flatten.using_ints","^",1],["linear","^","@","@"],["relu","^"],
["linear","^","@","@"],["relu","^"],["linear","^","@","@"]],
"output":{"tuple":["*","*"]},"leaves":["^2","^"]}}"output":{"dict":[["logits","*"]]},"leaves":["^"]}}
"output":"*","leaves":["^"]}}
["weight","same",0],"float16","bfloat16","float64","bool","class_token","position_embeddings","cls_token",
"pos_embed","mask_token","/model.layers.0.self_attn.q_proj.","/model.layers.0.mlp.gate_proj.","up_proj.",
"down_proj.","k_proj.","v_proj.","o_proj.","/model.encoder.layer.0.attention.self.query.","key.","value.",
"/model.embeddings.word_embeddings.","output.dense.","/classifier.","/transformer.h.0.attn.c_attn.","c_proj.",
"c_fc.","ln_1.","ln_2.","/blocks.0.mlp.fc1.","fc2.","/layers.0.norm1.","norm2.",
"/encoder.layers.0.self_attn.",["in_proj_weight",96,32],"in_proj_bias","out_proj.","linear1.","linear2.",
"layernorm.","/embedding.","weight_ih_l0","weight_hh_l0","bias_ih_l0","bias_hh_l0","_reverse","convolution.",
"normalization.","downsample.0.","shortcut.","/features.0.","/layer1.0.conv1.",["weight",64,64,3,3],
"/layer1.0.bn1.","weight","bias","running_mean","running_var",["num_batches_tracked","int64"],
"/layer1.0.conv2.",["weight",64,64,3,3],
"/layer1.0.bn2.","weight","bias","running_mean","running_var",["num_batches_tracked","int64"],
"/head.","/norm.","/0.",["weight",16,3,3,3],"bias","/2.",["weight",32,16,3,3],"bias",
"/conv1.",["weight",32,1,5,5],"bias","/conv2.",["weight",64,32,5,5],"bias",
"/fc1.",["weight",128,256],"bias","/fc2.",["weight",10,128],"bias","/fc.",["weight",10,64],"bias"],
{"dtype":"float32","tensors":["/"graph":{"why":"","arguments":[["input_ids","*"],["attention_mask","*"]],
"positional":0,"inputs":[{"dtype":"int64","shape":["batch","free_1"],"example":[2,10]}],
{"dtype":"float32","shape":["batch","free_1",32],"example":[2,10,32]}],"kinds":"cfffpppbbb","nodes":[
"arguments":[["pixel_values","*"]],"arguments":[["images","*"]],"arguments":[["x","*"]],
"graph":{"why":"","arguments":[["input","*"]],"positional":1,
"inputs":[{"dtype":"float32","shape":["batch",3,"free_1","free_2"],"example":[1,3,224,224]}],
"kinds":"ppppbbbpppbbbpppbbb","graph":{"why":"","arguments":[["input","*"]],"positional":1,
"inputs":[{"dtype":"float32","shape":["batch",1,28,28]}],"kinds":"pppppppppp","nodes":[
["conv2d","^","@","@"],["relu","^"],
"""
DICTIONARIES = (_FIRST.replace("\n", "").encode(),)
